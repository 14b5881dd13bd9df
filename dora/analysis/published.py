"""Published GLUE rows to set beside ours, each with its source and protocol; never mixed in.

The facts are in assets/published.csv, one line a number. DoRA's own row there is empty until
someone who has the paper's table before them enters it.
"""

from __future__ import annotations

import csv
import functools
import math
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dora.analysis.rows import has_budget
from dora.analysis.table import Table
from dora.analysis.view import MEAN
from dora.backbones.architectures import USUAL
from dora.package import ASSETS
from dora.records.about_data import is_glue
from dora.records.place import Row
from dora.records.schema import Run

FILE = ASSETS / "published.csv"
# A paper's average over tasks, as the column `task` names it.
AVERAGE = "average"
# `target` of a published row whose method adapts no matrices, such as full fine-tuning and BitFit.
NO_TARGET = "none"
# Their names of metrics → ours. Any other keeps its name, which no view of ours asks for.
_THEIR_NAMES = {"accuracy_m": "accuracy", "pearson_spearman_mean": MEAN}
# Settings by which a run of LoRA is rsLoRA, LoRA+ or PiSSA, with the values of LoRA itself.
_OF_LORA_ITSELF = {"scaling": "standard", "lr_ratio": 1.0, "init": "kaiming"}


@dataclass(frozen=True)
class Number:
    """One published score in points.

    `spread`: the number printed after ±, None where none is. `target`: the matrices that were
    adapted, `all` or as `q+v`; `none` for a method that adapts no matrices, empty where it is not
    known. `start`: the task whose adapter the runs started from, empty for the pretrained backbone
    alone.
    """

    source: str
    protocol: str
    model: str
    method: str
    params: str
    target: str
    task: str
    metric: str
    value: float | None
    spread: float | None
    start: str
    note: str

    @property
    def row(self) -> tuple[str, str, str, str, str]:
        """The line of a table that it stands in: (source, protocol, note, method, params)."""
        return self.source, self.protocol, self.note, self.method, self.params

    @property
    def seeds(self) -> int:
        """The number of runs that it is a mean or median of; 1 where the protocol does not say."""
        found = re.search(r"(\d+) seeds", self.protocol)
        return int(found[1]) if found else 1


@functools.cache
def numbers() -> tuple[Number, ...]:
    """Returns every published number, in file order."""

    def number(line: dict[str, str]) -> Number:
        """Returns one line of the file."""
        # The columns have the fields' names; only these three are no texts as they stand.
        parsed: dict[str, Any] = dict(line)
        parsed["metric"] = _THEIR_NAMES.get(line["metric"], line["metric"])
        for key in ("value", "spread"):
            parsed[key] = float(line[key]) if line[key] else None
        return Number(**parsed)

    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(map(number, csv.DictReader(file)))


@functools.cache  # asked for each cell that may depart from a number
def rows_for(model: str) -> dict[tuple[str, str, str, str, str], list[Number]]:
    """Returns the published rows for one of our backbones (`roberta_base`), by `Number.row`."""
    rows: dict[tuple[str, str, str, str, str], list[Number]] = {}
    for number in numbers():
        if number.model == model.replace("_", "-"):
            rows.setdefault(number.row, []).append(number)
    return rows


def departures(table: Table, row: Row, task: str) -> Iterator[Number]:
    """Yields the published numbers that our cell contradicts.

    Our score then lies outside their mean ± spread by more than the combined error,
    hypot(their spread / √seeds, our standard deviation / √seeds). Both must be measured alike: the
    same backbone with its pretrained weights, method, target matrices, parameters and metric, real
    data and all of it, whole epochs, the best evaluation on the development set, our median beside a
    median. rsLoRA, LoRA+ and PiSSA are other methods than LoRA. A number without a spread, with
    another start or a note on its set-up, or under another protocol is never contradicted.
    """
    ours, runs = list(table.values(row, task).values()), table.runs_of(row, task)
    if len(ours) < 2 or table.view.score != "best" or not all(map(_as_papers_do, runs)):
        return
    measured = (row.method, task, table.view.metric(task))
    for number in (n for group in rows_for(table.model).values() for n in group):
        if (number.method, number.task, number.metric) != measured:
            continue
        if not (
            _can_be_contradicted(number) and all(_adapts_alike(row, run, number) for run in runs)
        ):
            continue
        assert number.value is not None
        assert number.spread is not None
        # One failed seed moves a mean and hardly a median, so alike is compared with alike.
        of_median = number.protocol.startswith("median")
        middle = statistics.median(ours) if of_median else statistics.mean(ours)
        error = math.hypot(
            number.spread / math.sqrt(number.seeds), statistics.stdev(ours) / math.sqrt(len(ours))
        )
        if abs(middle - number.value) > number.spread + error:
            yield number


def _as_papers_do(run: Run) -> bool:
    """Returns whether a run trained and was chosen as papers do.

    They train on all of GLUE's rows for whole epochs, from the pretrained backbone alone, by the
    method that the row names, and choose on the development set.
    """
    config = run["config"]
    whole = config.get("limit_train") is None and config.get("max_steps") is None
    by_dev = config["select"] == "dev"
    from_backbone = not (run["fingerprints"]["init_from"] or run["model"]["random_weights"])
    return whole and is_glue(run) and by_dev and from_backbone and _is_as_named(config["method"])


def _is_as_named(method: dict[str, Any]) -> bool:
    """Returns whether a run's method, by its settings, is the one of its name's own paper."""
    # Records from before these settings lack them, and are of LoRA itself.
    usual = all(method.get(key, value) == value for key, value in _OF_LORA_ITSELF.items())
    return method["name"] != "lora" or usual


def _can_be_contradicted(number: Number) -> bool:
    """Returns whether a number has a spread and was measured there under our protocol."""
    # A note says that it was copied or set up otherwise. `best`: of several evaluations, as ours.
    known = number.value is not None and number.spread is not None
    return known and not (number.note or number.start) and "best" in number.protocol


def _adapts_alike(row: Row, run: Run, number: Number) -> bool:
    """Returns whether the adapter is on the same matrices and as large, up to rounding (`0.3M`)."""
    target = run["config"]["target"]
    # Without a budget there is no size to choose: the backbone sets it, as in full fine-tuning.
    if not has_budget(row):
        return target is None and number.target == NO_TARGET
    kinds = USUAL if number.target == "all" else number.target.split("+")
    text = number.params.removesuffix("M")
    # Half a unit of the last digit that they print.
    half = 0.5 * 10.0 ** -len(text.partition(".")[2])
    same_size = abs(run["params"]["adapter_end"] / 1e6 - float(text)) <= half
    return target is not None and set(target) == set(kinds) and same_size
