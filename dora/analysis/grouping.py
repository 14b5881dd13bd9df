"""Groups finished runs into tables, and leaves out and names what cannot be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dora.analysis import conflicts
from dora.analysis.choice import chosen
from dora.analysis.rows import budget_in_words, has_budget
from dora.analysis.table import APART, Table
from dora.analysis.view import View
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.records.place import place_of
from dora.records.schema import Run


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
        if not view.shows(task, place.method):
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
            cell = [*source, task, row.method, *([row.budget] if has_budget(row) else [])]
            by_task[task], problem = conflicts.one_configuration(
                members, table.view.mix, ":".join(cell)
            )
            if problem:
                name = f"{TASKS[task].folder} of {row.method} {budget_in_words(row.budget)}"
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
