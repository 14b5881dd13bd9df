"""Finished runs in the cells that tables and figures compare: one configuration, several seeds.

Everything is read from run.json; only runs that are done count. Knows no model and no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter

from dora.analysis import conflicts
from dora.analysis.choice import shows
from dora.analysis.names import data_title, method_title
from dora.analysis.rows import Row, budget_in_words, has_budget, row_order
from dora.analysis.stats import Estimate, average
from dora.analysis.view import View
from dora.analysis.where import chosen
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.records.about_data import is_glue
from dora.records.about_method import NO_BUDGET, about_method
from dora.records.place import place_of
from dora.records.schema import Run
from dora.records.study import Seen

# WNLI's development set contradicts its training set, so the field leaves it out of averages.
APART = "wnli"


@dataclass(eq=False)  # two tables are never one, and to compare all their records would take long
class Table:
    """All runs on one data source and model.

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
    # Tables, tests and figures ask for each cell's scores some thirty times.
    _values: dict[tuple[Row, str], dict[int, float]] = field(default_factory=dict, repr=False)
    # Intervals by (row, other row, task): each reads all predictions and draws resamples of them.
    examples: dict[tuple[Row, Row, str], tuple[float, float] | None] = field(
        default_factory=dict, repr=False
    )

    def title(self, method: str) -> str:
        """Returns a method's title as papers print it, by the records of its runs.

        Its name follows where two methods of the table have one title, as two files of one class.
        """
        titles = {method: method_title(method)} | self._titles
        own = titles[method]
        return f"{own} ({method})" if list(titles.values()).count(own) > 1 else own

    @cached_property
    def _titles(self) -> dict[str, str]:
        """The title of each method that has a row, whether or not others share it."""
        return {method: self._title_of(method) for method, _ in self.rows}

    def _title_of(self, method: str) -> str:
        runs = (run for row in self.rows if row[0] == method for run in self.runs_of(row))
        newest = max(runs, key=itemgetter("arithmetic"), default=None)
        return method_title(method) if newest is None else about_method(newest).title

    @property
    def baseline(self) -> str:
        """The title of the method that others are compared with."""
        return self.title(self.view.baseline)

    def compared_with(self, row: Row) -> Row:
        """Returns the row of the baseline that a row is compared with, whether or not it is there.

        It has the row's budget, or none where the baseline has none.
        """
        same, whole = (self.view.baseline, row[1]), (self.view.baseline, NO_BUDGET)
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

    @cached_property
    def blocks(self) -> list[list[Row]]:
        """The rows of each budget, which can be compared; those without one are the first block."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row[1], []).append(row)
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
        if (row, task) not in self._values:
            known = {run["seed"]: self.view.value(run, task) for run in self.runs_of(row, task)}
            self._values[row, task] = {
                seed: v for seed, v in sorted(known.items()) if v is not None
            }
        # A copy, so that no caller changes what the next one is given.
        return dict(self._values[row, task])

    def average(self, row: Row) -> Estimate | None:
        """Returns the mean over tasks with its error over seeds, None unless all have a value."""
        groups = [list(self.values(row, task).values()) for task in self.averaged]
        # A mean over other tasks than the next row's would look like a difference of methods.
        return average(groups) if groups and all(groups) else None

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


def tables(runs: Iterable[Run], view: View | None = None) -> list[Table]:
    """Groups runs into a table for each data source and model, and for each length if asked.

    Raises UserError where a cell holds two configurations, a table two backbones, or a task two
    sets of data.
    """
    found, problems = showable(runs, view)
    if problems:
        raise UserError(*problems)
    return found


def showable(runs: Iterable[Run], view: View | None = None) -> tuple[list[Table], list[str]]:
    """Returns the tables that can be made, and why cells, tasks or whole tables are left out."""
    view = view or View()
    found: dict[tuple[str, str, int | None], Table] = {}
    for run in chosen(list(runs), view.where):
        place = place_of(run["folder"])
        data, model, task = place.data, place.model, place.task
        steps = int(run["total_steps"]) if view.by_length else None
        table = found.setdefault((data, model, steps), Table(data, model, view, steps=steps))
        if not shows(view, task, place.method):
            if view.tasks and task not in view.tasks and (view.glue or task != APART):
                table.not_averaged.add(task)
            continue
        table.cells.setdefault(place.row, {}).setdefault(task, []).append(run)
    every = list(found.values())
    # Cells first: a run of a cell that is left out can be no reason to leave a whole task out.
    problems = [problem for table in every for problem in _keep_one_configuration(table, every)]
    problems += [problem for table in every for problem in _keep_one_source(table)]
    in_order = sorted(every, key=lambda table: (table.data, table.model, table.steps or 0))
    return [table for table in in_order if any(table.runs)], problems


def _keep_one_configuration(table: Table, every: Sequence[Table]) -> Iterator[str]:
    """Empties every cell of several configurations, and yields the reason for each.

    `every`: all tables; the choice that a reason names is of a cell of this one alone.
    """
    source = [table.data] if any(other.data != table.data for other in every) else []
    source += [table.model] if any(other.model != table.model for other in every) else []
    for row, by_task in table.cells.items():
        for task, members in by_task.items():
            cell = [*source, task, row[0], *([row[1]] if has_budget(row) else [])]
            by_task[task], problem = conflicts.one_configuration(
                members, table.view.mix, ":".join(cell)
            )
            if problem:
                name = f"{TASKS[task].folder} of {row[0]} {budget_in_words(row)}"
                table.left_out.append(f"{name}: its runs are of several configurations")
                yield f"{name} on {table.model}, data {table.data}: {problem}"


def _keep_one_source(table: Table) -> Iterator[str]:
    """Empties a table of several backbones and every task of several sets of rows.

    Yields the reason for each.
    """
    weights = conflicts.other_weights(table.runs, table.model)
    problems = []
    for task in table.tasks:
        of_task = [run for row in table.rows for run in table.runs_of(row, task)]
        if problem := conflicts.other_rows(of_task, task, table.data):
            table.cells = {row: {**by_task, task: []} for row, by_task in table.cells.items()}
            table.left_out.append(f"{TASKS[task].folder}: its rows are not the same in all runs")
            problems.append(problem)
    if weights:
        # Only now: which rows differ is worth saying of runs on two backbones, too.
        table.cells = {}
        yield weights
    yield from problems


def note_diverged(table: Table, seen: Iterable[Seen]) -> None:
    """Notes which runs of the table's cells diverged, which its means would otherwise hide.

    In a table of chosen settings these are the runs of a cell's own configuration alone: whether
    another one that has no result would be chosen is not known.
    """
    words = (word.partition("=") for word in table.view.where)
    seeds = {value for key, _, value in words if key == "seed"}
    for s in seen:
        place, seed = s.place, s.place.seed[1:]  # without its `s`
        if s.state != "diverged" or (place.data, place.model) != (table.data, table.model):
            continue
        if seeds and seed not in seeds:
            continue
        shown = shows(table.view, place.task, place.method)
        if not shown or table.steps not in (None, s.total_steps):
            continue
        its = table.cells.get(place.row, {}).get(place.task, [])
        # Another configuration, such as a rate that was tried first, is none of the cell's.
        keys = {place_of(run["folder"]).key for run in its}
        if (not its and not table.view.where) or place.key in keys:
            table.diverged.setdefault((place.row, place.task), []).append(int(seed))


def note_search(table: Table, seen: Iterable[Seen]) -> None:
    """Notes what the search of the table's settings took; `seen`: the runs of its folder.

    Runs of the table's rows, tasks and lengths count, ended or not: each has taken its time. A
    method that was not searched at its budget has the rates of its other budgets, whose runs count.
    """
    lengths = {run["total_steps"] for run in table.runs}
    here = [
        s
        for s in seen
        if (s.place.data, s.place.model) == (table.data, table.model)
        and s.place.task in table.tasks
        and s.total_steps in lengths
        and s.seconds is not None
    ]
    rows = {s.place.row for s in here}
    elsewhere = {method for method, spent in table.cells if (method, spent) not in rows}
    for s in here:
        if s.place.row in table.cells or s.place.method in elsewhere:
            table.searched_s.append(float(s.seconds or 0))


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
