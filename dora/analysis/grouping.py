"""Finished runs in the cells that tables and figures compare: one configuration, several seeds each.

Read from run.json alone; only runs that are done. Knows no model and no torch.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dora.adapters import budget
from dora.analysis import conflicts
from dora.analysis.stats import Estimate, average
from dora.analysis.where import chosen, short
from dora.data import npz
from dora.data.predictions import UNREADABLE, predict
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.records import artefacts
from dora.records.rescore import disagreement
from dora.records.run_json import NotARecord, read_placed
from dora.records.schema import Run
from dora.records.study import directories

Row = tuple[str, str]  # method, budget
MEAN = "mean"  # of all of a task's metrics, as GLUE's leaderboard counts them
_SHORT = {
    "accuracy": "acc",
    "f1": "F1",
    "matthews_correlation": "Mcc",
    "pearson": "Pearson",
    "spearmanr": "Spearman",
    MEAN: "mean",
}
# Its development set contradicts its training set, so the field leaves it out of averages.
APART = "wnli"
BASELINE = "lora"


def metrics_of(task: str) -> tuple[str, ...]:
    """Names of a task's scores: its metrics on every development split (`accuracy_mm`), and their mean where several."""
    splits = TASKS[task].dev_splits
    names = [
        f"{metric}{split.removeprefix('dev')}" for split in splits for metric in TASKS[task].metrics
    ]
    return (*names, MEAN) if len(names) > 1 else tuple(names)


@dataclass(frozen=True)
class View:
    """Which runs count, and which number of each.

    `score`: the best or the last development evaluation. `metrics`: task → one of `metrics_of`, the task's
    first where nothing is said. `glue`: as GLUE's leaderboard averages, the mean of each task's metrics, and WNLI in.
    `where`: settings that runs must have (`dora.analysis.where`). `mix`: runs of a cell may differ in their arithmetic.
    Raises UserError for a task or a metric that there is not.
    """

    score: str = "best"
    metrics: Mapping[str, str] = field(default_factory=dict)
    glue: bool = False
    where: tuple[str, ...] = ()
    mix: bool = False

    def __post_init__(self) -> None:
        wrong = []
        for task, metric in self.metrics.items():
            if task not in TASKS:
                wrong.append(f"task {task!r} must be one of {', '.join(TASKS)}")
            elif metric not in metrics_of(task):
                wrong.append(
                    f"{task}'s metric {metric!r} must be one of {', '.join(metrics_of(task))}"
                )
        if wrong:
            raise UserError(*wrong)

    @property
    def choice(self) -> list[str]:
        """Which runs were chosen, in words: `lr=0.002`; empty where all were."""
        return [*short(self.where), *(["mixed arithmetic"] if self.mix else [])]

    @property
    def suffix(self) -> str:
        """What the choice of runs adds to the names of files: `-lr=0.002`."""
        return "".join("-" + re.sub(r"[^\w.=+-]", "_", word) for word in self.choice)

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
    """`0.3M`, `13,824`, `r8`; a dash for full fine-tuning."""
    return "–" if row[0] == "full" else budget.in_words(row[1])


@dataclass
class Table:
    """All runs on one data source and model.

    `cells`: row → task → its runs, one configuration each; none in a cell that had to be left out, which
    `left_out` names.
    """

    data: str
    model: str
    view: View
    cells: dict[Row, dict[str, list[Run]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    _values: dict[tuple[Row, str], dict[int, float]] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """`hub-roberta_base-best`: what its files are called; every choice of the view but the defaults is in it."""
        metrics = [f"-{task}-{metric}" for task, metric in sorted(self.view.metrics.items())]
        return f"{self.data}-{self.model}-{self.view.score}{'-glue' * self.view.glue}{''.join(metrics)}{self.view.suffix}"

    @cached_property
    def rows(self) -> list[Row]:
        """Full fine-tuning, then budget by budget, the smaller first, and in each LoRA first."""
        first = {"full": 0, BASELINE: 1}

        def place(row: Row) -> tuple[bool, int, str, int, str]:
            method, spent = row
            return method != "full", len(spent), spent, first.get(method, 2), method

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
        return sorted(
            (t for t in TASKS if t in found), key=lambda t: t == APART and not self.view.glue
        )

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
        if (row, task) not in self._values:  # tables ask some thirty times
            known = {run["seed"]: self.view.value(run, task) for run in self.runs_of(row, task)}
            self._values[row, task] = {
                seed: v for seed, v in sorted(known.items()) if v is not None
            }
        return dict(self._values[row, task])

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
        return self.view.score == "last" or all(
            len(self.evaluations(task)) <= 1 for task in self.tasks
        )


def read_runs(results: Path) -> list[Run]:
    """run.json of every finished run under `results`/runs, in path order; `folder` is added.

    One that cannot be believed is left out and said, as `dora.status` calls it broken.
    """
    runs = []
    for folder in directories(results):
        try:
            run = read_placed(folder)
        except FileNotFoundError:
            continue
        except NotARecord as e:
            left_out(folder / "run.json", str(e))
            continue
        if run["status"] != "done":
            continue
        if (problem := _contradicted(folder, run)) is not None:
            left_out(folder / "run.json", problem)
            continue
        runs.append({**run, "folder": folder})
    return runs


def _contradicted(folder: Path, run: Run) -> str | None:
    """Where the stored predictions give other scores than the record. Damaged ones say nothing of it, and that is said."""
    problem = artefacts.changed(folder, run, npz.NAME)
    if problem is None:
        try:
            return disagreement(folder, run)
        except UNREADABLE as e:
            problem = f"{type(e).__name__}: {e}"
    left_out(folder / npz.NAME, problem)
    return None


_said: dict[Path, str] = {}


def left_out(path: Path, why: str) -> None:
    """Says once that a file of a run is damaged and not counted, and what mends it."""
    if path not in _said:
        _said[path] = why
        print(
            f"left out: {path} cannot be read ({why}); train that run again with force=true, or move it away",
            file=sys.stderr,
        )


def anything_left_out(results: Path) -> bool:
    """Whether `left_out` has named a file under `results`."""
    return any(path.is_relative_to(results) for path in _said)


def tables(runs: Iterable[Run], view: View | None = None) -> list[Table]:
    """Runs by what tables tell apart.

    Raises UserError where one cell holds two configurations, one table two backbones, or one task two sets of data.
    """
    found, problems = showable(runs, view)
    if problems:
        raise UserError(*problems)
    return found


def showable(runs: Iterable[Run], view: View | None = None) -> tuple[list[Table], list[str]]:
    """The tables that can be made, and why cells, tasks or whole tables are left out."""
    view = view or View()
    found: dict[tuple[str, str], Table] = {}
    for run in chosen(list(runs), view.where):
        data, task, model, method, spent, _key, _seed = run["folder"].parts[-7:]
        table = found.setdefault((data, model), Table(data, model, view))
        table.cells.setdefault((method, spent), {}).setdefault(task, []).append(run)
    problems = [problem for table in found.values() for problem in _keep_one_configuration(table)]
    problems += [problem for table in found.values() for problem in _keep_one_source(table)]
    return [table for table in found.values() if any(table.runs)], problems


def _keep_one_configuration(table: Table) -> Iterator[str]:
    """Empties every cell of several configurations; why."""
    for row, by_task in table.cells.items():
        for task, members in by_task.items():
            by_task[task], problem = conflicts.one_configuration(members, table.view.mix)
            if problem:
                name = f"{TASKS[task].folder} of {row[0]} {budget_in_words(row)}"
                table.left_out.append(f"{name}: its runs are of several configurations")
                yield f"{name} on {table.model}, data {table.data}: {problem}"


def _keep_one_source(table: Table) -> Iterator[str]:
    """Empties a table of several backbones, and every task of several sets of rows; why."""
    problems = [conflicts.other_weights(table.runs, table.model)]
    for task in table.tasks:
        of_task = [run for row in table.rows for run in table.runs_of(row, task)]
        if problem := conflicts.other_rows(of_task, task, table.data):
            table.cells = {row: {**by_task, task: []} for row, by_task in table.cells.items()}
            table.left_out.append(f"{TASKS[task].folder}: its rows are not the same in all runs")
            problems.append(problem)
    if problems[0]:
        table.cells = {}
    yield from filter(None, problems)


def dirty(run: Run) -> bool:
    """Whether any process that trained it ran sources with uncommitted changes."""
    return any((start["git"] or {}).get("dirty") for start in starts(run))


def starts(run: Run) -> list[dict[str, Any]]:
    """What is known of each process that trained it; records of before that was written have only the first."""
    return run.get("starts") or [run]


def predictions(run: Run, task: str, score: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(labels (n,), predictions (n,)) of the run on the development set; None where they are not stored, or damaged."""
    path, names = run["folder"] / npz.NAME, (f"{score}/dev/logits", "dev/labels")
    if (problem := artefacts.changed(run["folder"], run, npz.NAME)) is not None:
        left_out(path, problem)
        return None
    try:
        stored = npz.load(run["folder"], names, TASKS[task].outputs)
        logits, labels = (stored[name] for name in names)
    except FileNotFoundError:
        return None
    except UNREADABLE as e:
        left_out(path, f"{type(e).__name__}: {e}")
        return None
    return labels, predict(TASKS[task], logits)
