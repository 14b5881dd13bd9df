"""Published GLUE rows to set beside ours, each with its source and protocol; never mixed in.

The facts are in assets/published.csv, one line a number. DoRA's own row there is empty until someone who has
the paper's table before them enters it.
"""

from __future__ import annotations

import csv
import functools
import math
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from dora import ASSETS
from dora.analysis.grouping import MEAN, Row, Table
from dora.backbones.architectures import KINDS
from dora.records.schema import Run

FILE = ASSETS / "published.csv"
AVERAGE = "average"
# Their names of metrics → ours. Any other is its own name, which no view of ours asks for.
_METRICS = {"accuracy_m": "accuracy", "pearson_spearman_mean": MEAN}


@dataclass(frozen=True)
class Number:
    """One published score in points. `spread`: what they print after ±, None where they print none.

    `target`: the matrices that were adapted, `all` or as `q+v`; `none` of a method that adapts no matrix, empty
    where it is not known. `start`: the task whose adapter the runs started from, empty for the pretrained
    backbone alone.
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
        """What one line of a table holds: (source, protocol, note, method, params)."""
        return self.source, self.protocol, self.note, self.method, self.params

    @property
    def seeds(self) -> int:
        """How many runs it is a mean or median of; 1 where the protocol does not say."""
        found = re.search(r"(\d+) seeds", self.protocol)
        return int(found[1]) if found else 1


@functools.cache
def numbers() -> tuple[Number, ...]:
    """Every published number, in file order."""

    def number(line: dict[str, str]) -> Number:
        value, spread = (float(line[key]) if line[key] else None for key in ("value", "spread"))
        metric = _METRICS.get(line["metric"], line["metric"])
        return Number(
            line["source"],
            line["protocol"],
            line["model"],
            line["method"],
            line["params"],
            line["target"],
            line["task"],
            metric,
            value,
            spread,
            line["start"],
            line["note"],
        )

    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(map(number, csv.DictReader(file)))


def beside(model: str) -> dict[tuple[str, str, str, str, str], list[Number]]:
    """The published rows for one of our backbones (`roberta_base`), by `Number.row`."""
    rows: dict[tuple[str, str, str, str, str], list[Number]] = {}
    for number in numbers():
        if number.model == model.replace("_", "-"):
            rows.setdefault(number.row, []).append(number)
    return rows


def departures(table: Table, row: Row, task: str) -> Iterator[Number]:
    """The published numbers that our cell contradicts: outside their mean ± spread by more than the combined error.

    That is hypot(their spread / √seeds, our standard deviation / √seeds). Only where both are measured alike: the same
    backbone, method, target matrices, parameters and metric, real data and all of it, whole epochs, the best
    evaluation on the development set, our median beside a median. Never against a number without a spread, with
    another start or a note on its set-up, or under another protocol.
    """
    ours, runs = list(table.values(row, task).values()), table.runs_of(row, task)
    if (
        len(ours) < 2
        or table.data == "mini"
        or table.view.score != "best"
        or not all(map(_as_papers_do, runs))
    ):
        return
    for number in (n for group in beside(table.model).values() for n in group):
        alike = (number.method, number.task, number.metric) == (
            row[0],
            task,
            table.view.metric(task),
        )
        if not (
            alike
            and _can_be_contradicted(number)
            and all(_adapts_alike(run, number) for run in runs)
        ):
            continue
        assert number.value is not None
        assert number.spread is not None
        middle = (
            statistics.median(ours)
            if number.protocol.startswith("median")
            else statistics.mean(ours)
        )
        error = math.hypot(
            number.spread / math.sqrt(number.seeds), statistics.stdev(ours) / math.sqrt(len(ours))
        )
        if abs(middle - number.value) > number.spread + error:
            yield number


def _as_papers_do(run: Run) -> bool:
    """Whether a run trained on all rows for whole epochs, from the backbone alone, and was chosen on the development set."""
    config = run["config"]
    whole = config.get("limit_train") is None and config.get("max_steps") is None
    return (
        whole and config.get("select", "dev") == "dev" and not run["fingerprints"].get("init_from")
    )


def _can_be_contradicted(number: Number) -> bool:
    """Whether a number has a spread, its own measurement and the protocol that ours has."""
    known = number.value is not None and number.spread is not None
    return known and not (number.note or number.start) and "best" in number.protocol


def _adapts_alike(run: Run, number: Number) -> bool:
    """Whether the adapter is on the same matrices and as large as `0.3M` says, up to its rounding.

    Full fine-tuning adapts no matrix and is always as large as the backbone.
    """
    target = run["config"].get("target")
    if number.method == "full":
        return target is None and number.target == "none"
    kinds = KINDS if number.target == "all" else number.target.split("+")
    text = number.params.removesuffix("M")
    half = 0.5 * 10.0 ** -len(text.partition(".")[2])
    same_size = abs(run["params"]["adapter_end"] / 1e6 - float(text)) <= half
    return target is not None and set(target) == set(kinds) and same_size


def shown(group: list[Number], table: Table, task: str) -> str:
    """What a line of published numbers has for a task: `86.6 ± 0.7`, with its metric where that is not the table's."""
    of_task = [n for n in group if n.task == task and n.value is not None]
    metric = "score" if task == AVERAGE else table.view.metric(task)
    best = next((n for n in of_task if n.metric == metric), of_task[0] if of_task else None)
    if best is None:
        return "–"
    text = f"{best.value:.1f}" + ("" if best.spread is None else f" ± {best.spread:.1f}")
    text += f" from {best.start}" if best.start else ""
    return text if best.metric == metric else f"{text} ({best.metric.replace('_', ' ')})"
