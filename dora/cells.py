"""Finished runs in the cells that tables and figures compare: one configuration, several seeds each.

Read from run.json alone; only runs that are done. Knows no model and no torch.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.predictions import UNREADABLE, predict
from dora.stats import Estimate, average
from dora.study import directories

Run = dict[str, Any]
Row = tuple[str, str]  # method, budget
MEAN = "mean"  # of all of a task's metrics, as GLUE's leaderboard counts them
_SHORT = {"accuracy": "acc", "f1": "F1", "matthews_correlation": "Mcc", "pearson": "Pearson",
          "spearmanr": "Spearman", MEAN: "mean"}  # fmt: skip
# Its development set contradicts its training set, so the field leaves it out of averages.
APART = "wnli"
BASELINE = "lora"


def metrics_of(task: str) -> tuple[str, ...]:
    """Names of a task's scores: its metrics on every development split (`accuracy_mm`), and their mean where several."""
    splits = TASKS[task].dev_splits
    names = [f"{metric}{split.removeprefix('dev')}" for split in splits for metric in TASKS[task].metrics]
    return (*names, MEAN) if len(names) > 1 else tuple(names)


@dataclass(frozen=True)
class View:
    """Which number of a run counts.

    `score`: the best or the last development evaluation. `metrics`: task → one of `metrics_of`, the task's
    first where nothing is said. `glue`: as GLUE's leaderboard averages, the mean of each task's metrics, and WNLI in.
    Raises UserError for a task or a metric that there is not.
    """

    score: str = "best"
    metrics: Mapping[str, str] = field(default_factory=dict)
    glue: bool = False

    def __post_init__(self) -> None:
        wrong = []
        for task, metric in self.metrics.items():
            if task not in TASKS:
                wrong.append(f"task {task!r} must be one of {', '.join(TASKS)}")
            elif metric not in metrics_of(task):
                wrong.append(f"{task}'s metric {metric!r} must be one of {', '.join(metrics_of(task))}")
        if wrong:
            raise UserError(*wrong)

    def metric(self, task: str) -> str:
        """The name of the task's score."""
        names = metrics_of(task)
        return self.metrics.get(task, MEAN if self.glue and MEAN in names else names[0])

    def title(self, task: str) -> str:
        """`MRPC F1`."""
        name = self.metric(task).removesuffix("_mm")
        return f"{TASKS[task].folder}{'-mm' if name != self.metric(task) else ''} {_SHORT[name]}"

    def value(self, run: Run, task: str) -> float | None:
        """The score in points; None where the run's predictions leave it undefined."""
        result, metric = run["results"][self.score], self.metric(task)
        names = metrics_of(task)[:-1] if metric == MEAN else (metric,)
        values = [result.get(name) for name in names]
        return None if None in values else 100 * math.fsum(values) / len(values)


def budget_in_words(row: Row) -> str:
    """`13,824`, `r8`; a dash for full fine-tuning."""
    return "–" if row[0] == "full" else f"{int(row[1]):,}" if row[1].isdigit() else row[1]


@dataclass
class Table:
    """All runs on one data source and model. `cells`: row → task → its runs, one configuration each."""

    data: str
    model: str
    view: View
    cells: dict[Row, dict[str, list[Run]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`hub-roberta_base-best`: what its files are called; every choice of the view but the defaults is in it."""
        chosen = [f"-{task}-{metric}" for task, metric in sorted(self.view.metrics.items())]
        return f"{self.data}-{self.model}-{self.view.score}{'-glue' * self.view.glue}{''.join(chosen)}"

    @cached_property
    def rows(self) -> list[Row]:
        """Full fine-tuning, then budget by budget, the smaller first, and in each LoRA first."""
        first = {"full": 0, BASELINE: 1}

        def place(row: Row) -> tuple[bool, int, str, int, str]:
            method, budget = row
            return method != "full", len(budget), budget, first.get(method, 2), method

        return sorted(self.cells, key=place)

    @cached_property
    def blocks(self) -> list[list[Row]]:
        """Rows of one budget, which are what can be compared; full fine-tuning is a block of its own."""
        found: dict[tuple[bool, str], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row[0] == "full", row[1]), []).append(row)
        return list(found.values())

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks in GLUE's order; WNLI last, unless the average is GLUE's own."""
        found = {task for row in self.cells.values() for task in row}
        return sorted((t for t in TASKS if t in found), key=lambda t: t == APART and not self.view.glue)

    @property
    def averaged(self) -> list[str]:
        """The tasks that the average is over."""
        return [t for t in self.tasks if t != APART or self.view.glue]

    @property
    def apart(self) -> list[str]:
        """The tasks that are shown and not averaged."""
        return [t for t in self.tasks if t not in self.averaged]

    @cached_property
    def seeds(self) -> set[int]:
        """The seeds that a whole table has in every cell."""
        return {run["seed"] for run in self.runs}

    @property
    def runs(self) -> Iterator[Run]:
        """Every run of the table."""
        return (run for row in self.cells for run in self.runs_of(row))

    def runs_of(self, row: Row, task: str | None = None) -> list[Run]:
        """The runs of a row, or of one of its cells; none where the cell is empty."""
        if task is not None:
            return self.cells[row].get(task, [])
        return [run for runs in self.cells[row].values() for run in runs]

    def values(self, row: Row, task: str) -> dict[int, float]:
        """The cell's scores by seed, in points; a run whose score is undefined is left out."""
        known = {run["seed"]: self.view.value(run, task) for run in self.runs_of(row, task)}
        return {seed: value for seed, value in sorted(known.items()) if value is not None}

    def average(self, row: Row) -> Estimate | None:
        """The mean over tasks with its error over seeds; None unless every task has a value."""
        groups = [list(self.values(row, task).values()) for task in self.averaged]
        return average(groups) if groups and all(groups) else None

    def evaluations(self, task: str) -> set[tuple[int, int, int]]:
        """(evaluations that counted, from which step, of how many) of the task's runs: one where all share them."""
        found = {
            (run["evaluations"]["counted"], run["evaluations"]["from_step"], run["total_steps"])
            for row in self.rows
            for run in self.runs_of(row, task)
        }
        return found

    @cached_property
    def comparable(self) -> bool:
        """Whether methods may be compared: on `last` always, on `best` over evaluations that all of a task share."""
        return self.view.score == "last" or all(len(self.evaluations(task)) == 1 for task in self.tasks)


def read_runs(results: Path) -> list[Run]:
    """run.json of every finished run under `results`/runs, in path order; `folder` is added.

    One that cannot be read is left out and said, as `dora.status` calls it broken.
    """
    runs = []
    for folder in directories(results):
        path = folder / "run.json"
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            done = run["status"] == "done"
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as e:
            left_out(path, f"{type(e).__name__}: {e}")
            continue
        if done:
            runs.append({**run, "folder": folder})
    return runs


@cache  # once a file, however often it is asked for
def left_out(path: Path, why: str) -> None:
    """Says that a file of a run is damaged and not counted, and what mends it."""
    print(f"left out: {path} cannot be read ({why}); train that run again with force=true, or move it away",
          file=sys.stderr)  # fmt: skip


def tables(runs: Iterable[Run], view: View | None = None) -> list[Table]:
    """Runs by what tables tell apart.

    Raises UserError where one cell holds two configurations, one table two backbones, or one task two sets of data.
    """
    found: dict[tuple[str, str], Table] = {}
    for run in runs:
        data, task, model, method, budget, _key, _seed = run["folder"].parts[-7:]
        table = found.setdefault((data, model), Table(data, model, view or View()))
        table.cells.setdefault((method, budget), {}).setdefault(task, []).append(run)
    wrong = [problem for table in found.values() for row in table.cells.values() for members in row.values()
             if (problem := _two_configurations(members))]  # fmt: skip
    wrong = wrong or [problem for table in found.values() for problem in _unlike_sources(table)]
    if wrong:
        raise UserError(*wrong)
    return list(found.values())


def _two_configurations(runs: list[Run]) -> str | None:
    """What differs where the runs of a cell are not of one configuration."""
    first = {run["folder"].parent: run for run in runs}
    if len(first) == 1:
        return None
    settings = [_flat({k: run.get(k) for k in ("config", "fingerprints")}) for run in first.values()]
    keys = sorted({key for one in settings for key in one} - {"config.seed", "config.results"})
    differing = [
        f"{key.removeprefix('config.')} {' | '.join(str(one.get(key)) for one in settings)}"
        for key in keys
        if len({json.dumps(one.get(key)) for one in settings}) > 1
    ]
    return (
        f"one cell holds {len(first)} configurations: {' | '.join(map(str, first))}, which differ in "
        f"{'; '.join(differing) or 'nothing that run.json says'}: a table compares one; move the others away"
    )


def _unlike_sources(table: Table) -> Iterator[str]:
    """What is wrong where runs that only share a name, of the backbone or of the data, would be compared."""
    runs = list(table.runs)
    yield from _differing(
        runs,
        "model",
        f"the weights of model {table.model}",
        "train them again with a model.name= of their own",
    )
    for task in table.tasks:
        of_task = [run for row in table.rows for run in table.runs_of(row, task)]
        yield from _differing(
            of_task, "data", f"{task}'s rows of data {table.data}", "train them again on the same rows"
        )


def _differing(runs: Iterable[Run], key: str, what: str, way_out: str) -> Iterator[str]:
    """The problem, if any: fingerprints that differ, the folders of all but the most frequent one by name."""
    folders: dict[str, list[Path]] = {}
    for run in runs:
        if mark := run["fingerprints"].get(key):
            folders.setdefault(mark, []).append(run["folder"].parent)
    if len(folders) > 1:
        (most, _), *others = sorted(folders.items(), key=lambda item: -len(item[1]))
        named = [f"{mark[:8]} in {', '.join(map(str, dict.fromkeys(members)))}" for mark, members in others]
        yield (f"{what} are not the same in all runs (fingerprints.{key}: {'; '.join(named)}; {most[:8]} in the rest): "
               f"a table compares methods on the same ones; move these runs away, or {way_out}")  # fmt: skip


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def dirty(run: Run) -> bool:
    """Whether any process that trained it ran sources with uncommitted changes."""
    return any((start["git"] or {}).get("dirty") for start in starts(run))


def starts(run: Run) -> list[dict[str, Any]]:
    """What is known of each process that trained it; records of before that was written have only the first."""
    return run.get("starts") or [run]


def predictions(run: Run, task: str, score: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(labels (n,), predictions (n,)) of the run on the development set; None where they are not stored, or damaged."""
    path = run["folder"] / "predictions.npz"
    try:
        # Opened here, since NumPy leaves a file open that is no whole zip.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            logits, labels = stored[f"{score}/dev/logits"], stored["dev/labels"]
    except FileNotFoundError:
        return None
    except UNREADABLE as e:
        left_out(path, f"{type(e).__name__}: {e}")
        return None
    return labels, predict(TASKS[task], logits)
