"""A table of finished runs: those on one data source and model, in cells of method, budget and task.

Text tables, figures and the page all read it. It is made by `dora.analysis.grouping`, from run.json
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from statistics import fmean

from dora.analysis.names import data_title, method_title
from dora.analysis.rows import budget_in_words, row_order
from dora.analysis.stats import Estimate, average
from dora.analysis.view import View
from dora.data.tasks import TASKS
from dora.records.about_data import is_glue
from dora.records.about_method import NO_BUDGET
from dora.records.place import Row
from dora.records.schema import Run

# WNLI's development set contradicts its training set, so the field leaves it out of averages.
APART = "wnli"
AVERAGE = "average"  # the title of the average over tasks, among those of tasks
Cost = Callable[[Run, str], float]  # of a run, in the weights that its score, best or last, is of


@dataclass(eq=False)  # two tables are never one, and to compare all their records would take long
class Table:
    """All runs on one data source and model.

    A column of its scores is a task, or None for the average over tasks.

    `cells`: row → task → its runs, all of one configuration; a cell that had to be left out is
    empty, and `left_out` names it with the reason. `steps`: the length of its runs, if the view has
    a table for each length. `diverged`: (row, task) → seeds of runs without a result.
    `not_averaged`: tasks with runs that the view leaves out of the average. `searched_s`: seconds of
    training of each run of the search that its settings come from.
    """

    data: str
    model: str
    view: View
    cells: dict[Row, dict[str, list[Run]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    steps: int | None = None
    diverged: dict[tuple[Row, str], list[int]] = field(default_factory=dict)
    not_averaged: set[str] = field(default_factory=set)
    searched_s: list[float] = field(default_factory=list)

    def title(self, method: str) -> str:
        """Returns a method's title as papers print it, by the records of its runs.

        Its name follows where two methods of the table have one title, as two files of one class.
        """
        titles = {method: method_title(method)} | self._titles
        own = titles[method]
        return f"{own} ({method})" if list(titles.values()).count(own) > 1 else own

    def row_title(self, row: Row) -> str:
        """Returns a row in words: `DoRA r8`."""
        return f"{self.title(row.method)} {budget_in_words(row.budget)}"

    @cached_property
    def _titles(self) -> dict[str, str]:
        """The title of each method that has a row, whether or not others share it."""
        return {method: self._title_of(method) for method in self.methods}

    def _title_of(self, method: str) -> str:
        runs = (run for row in self.rows if row.method == method for run in self.runs_of(row))
        newest = max(runs, key=itemgetter("arithmetic"), default=None)
        return method_title(method) if newest is None else str(newest["method"]["title"])

    @property
    def baseline(self) -> str:
        """The title of the method that others are compared with."""
        return self.title(self.view.baseline)

    def compared_with(self, row: Row) -> Row:
        """Returns the row of the baseline that a row is compared with, whether or not it is there.

        It has the row's budget, or none where the baseline has none.
        """
        same, whole = Row(self.view.baseline, row.budget), Row(self.view.baseline, NO_BUDGET)
        return whole if whole in self.cells and same not in self.cells else same

    @property
    def data_title(self) -> str:
        """The name of the data, as captions have it."""
        return data_title(self.data, all(map(is_glue, self.runs)))

    @property
    def name(self) -> str:
        """The start of its files' names: `hub-roberta_base-best`.

        Every choice of the view that is no default is a part of it, so that no view's files
        overwrite another's.
        """
        parts = [self.data, self.model, self.view.score, *self.view.scoring]
        parts += [] if self.steps is None else [f"{self.steps}steps"]
        return "-".join(parts) + self.view.suffix

    @cached_property
    def rows(self) -> list[Row]:
        """Methods without a budget, then budget by budget from the smallest, LoRA first in each."""
        return sorted(self.cells, key=row_order)

    @property
    def methods(self) -> list[str]:
        """The methods that have rows, in the order of the rows."""
        return list(dict.fromkeys(method for method, _ in self.rows))

    @cached_property
    def blocks(self) -> list[list[Row]]:
        """The rows of each budget, which can be compared; those without one are the first block."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.budget, []).append(row)
        return list(found.values())

    @property
    def tasks(self) -> list[str]:
        """The tasks in GLUE's order, WNLI last.

        A task is absent if each of its cells had to be left out.
        """
        found = {task for row in self.cells.values() for task, runs in row.items() if runs}
        return [task for task in TASKS if task in found]

    @property
    def averaged(self) -> list[str]:
        """The tasks that the average is over."""
        return [t for t in self.tasks if t != APART or self.view.glue]

    @property
    def apart(self) -> list[str]:
        """The tasks that are shown and not averaged."""
        return [t for t in self.tasks if t not in self.averaged]

    @property
    def columns(self) -> list[str | None]:
        """The averaged tasks, their average, then the tasks apart.

        The average of one task is that task, and has no column.
        """
        average = [None] if len(self.averaged) > 1 else []
        return [*self.averaged, *average, *self.apart]

    def over(self, column: str | None) -> list[str]:
        """Returns the tasks that a column is over: one, or all that are averaged."""
        return self.averaged if column is None else [column]

    def column_title(self, column: str | None) -> str:
        """Returns a column's title: `MRPC F1`, `average`."""
        return AVERAGE if column is None else self.view.title(column)

    @cached_property
    def seeds(self) -> set[int]:
        """Every seed that occurs; a complete table has all of them in every cell."""
        return {run["seed"] for run in self.runs}

    @property
    def runs(self) -> Iterator[Run]:
        """Every run of the table."""
        return (run for row in self.cells for run in self.runs_of(row))

    def runs_of(self, row: Row, task: str | None = None) -> list[Run]:
        """Returns the runs of a row, or of one of its cells; an empty list for an empty cell."""
        if task is not None:
            return self.cells[row].get(task, [])
        return [run for runs in self.cells[row].values() for run in runs]

    def values(self, row: Row, task: str) -> dict[int, float]:
        """Returns the cell's scores by seed, in points; runs with an undefined score are absent."""
        # A copy, so that no caller changes what the next one is given.
        return dict(self._values[row].get(task, {}))

    @cached_property
    def _values(self) -> dict[Row, dict[str, dict[int, float]]]:
        """The scores of every cell: tables, tests and figures ask for each some thirty times."""

        def scores(task: str, runs: Sequence[Run]) -> dict[int, float]:
            known = {run["seed"]: self.view.value(run, task) for run in runs}
            return {seed: v for seed, v in sorted(known.items()) if v is not None}

        return {
            row: {task: scores(task, runs) for task, runs in by_task.items()}
            for row, by_task in self.cells.items()
        }

    def mean(self, row: Row, column: str | None) -> Estimate | None:
        """Returns the mean of a column with its error over seeds.

        Returns None unless every task that the column is over has a score.
        """
        groups = [list(self.values(row, task).values()) for task in self.over(column)]
        # A mean over other tasks than the next row's would look like a difference of methods.
        return average(groups) if groups and all(groups) else None

    def mean_cost(self, row: Row, tasks: Sequence[str], cost: Cost) -> float:
        """Returns the mean over tasks of a row's mean cost of a run; each task must have a run.

        Averaged as scores are: a task with more seeds than another weighs no more.
        """
        score = self.view.score
        of_tasks = [[cost(run, score) for run in self.runs_of(row, task)] for task in tasks]
        return fmean(map(fmean, of_tasks))

    def evaluations(self, task: str) -> set[tuple[int, int, int, str]]:
        """Returns how the task's runs were evaluated, one entry where all of them share it.

        Each entry: (evaluations that counted, step at which the first was due, steps of the run,
        rows that chose the best of them: `dev` or `heldout`).
        """
        return {
            (
                run["evaluations"]["counted"],
                first_counted(run),
                run["total_steps"],
                run["config"]["select"],
            )
            for row in self.rows
            for run in self.runs_of(row, task)
        }

    @cached_property
    def comparable(self) -> bool:
        """True where methods may be compared.

        The last evaluation always may. The best of more evaluations is higher by chance, and so is
        one that the development set chose beside one that held-out rows chose, so `best` needs
        evaluations that all runs of a task share.
        """
        return self.view.score == "last" or all(
            len(self.evaluations(task)) <= 1 for task in self.tasks
        )


def train_seconds(run: Run, score: str) -> float:
    """Returns the cost of a run in seconds of training, whichever of its weights are scored."""
    return float(run["train_s"])


def first_counted(run: Run) -> int:
    """Returns the multiple of `eval_every` at which the first evaluation that counted was due.

    The record holds the step from which they count, which differs with a method's last change of
    ranks even where no evaluation lies between. A federated run is evaluated at the end of the round
    that has a multiple in it, which may lie before the step in the record.
    """
    config, total = run["config"], int(run["total_steps"])
    # Without `eval_every` a run is evaluated after each epoch.
    every = config.get("eval_every") or -(-run["data"]["train"] // config["batch_size"])
    f = run.get("federation")
    unit = max(1, f["selected"] * f["local_steps"]) if f else 1
    # The end of the last round that came too early to count.
    before = (run["evaluations"]["from_step"] - 1) // unit * unit
    return min(total, (before // every + 1) * every)
