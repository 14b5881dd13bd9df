"""The tables of scores by method and task: means with published rows under a rule, and medians."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from dora.analysis.comparison import Leaders, leaders, uncompared
from dora.analysis.names import model_title, size_range
from dora.analysis.published import departures
from dora.analysis.rows import budget_in_words, budget_starts
from dora.analysis.stats import Estimate
from dora.analysis.table import AVERAGE, Table
from dora.analysis.tables.layout import Grid, transposed
from dora.analysis.tables.notes import MARKS, score_notes
from dora.analysis.tables.published_rows import published_rows
from dora.records.about_method import adapter_parameters, trains_all
from dora.records.about_starts import dirty
from dora.records.place import Row

# The columns before are method, budget, parameters; `_sizes` of published_rows.py fills the last
# two in a paper's rows.
_FIRST_SCORE = 3
# By column the name and the unit of its head, which print sets in two rows.
Heads = dict[str | None, tuple[str, str]]


def scores(table: Table) -> Grid:
    """Returns one row a method and budget, one column a task: mean ± standard deviation in points.

    Means are over seeds. The average over tasks comes with its 95 % interval over seeds. Bold and
    underlined: `dora.analysis.comparison.leaders`. Published rows stand last, under a rule. With
    the view's `transposed` there is one row a task, one column a method and budget.
    """
    heads = _heads(table)
    rows = [
        [
            table.title(row.method),
            budget_in_words(row.budget),
            parameters(table, row),
            *(_score(table, row, column) for column in heads),
        ]
        for row in table.rows
    ]
    leading = leaders(table)
    bold, underlined, untested = _marked(table, heads, leading)
    lacking = _uncompared(table, heads, uncompared(table, leading))
    # Only marks that occur are explained below the table.
    marks = {mark for row in rows for text in row[_FIRST_SCORE:] for mark in MARKS if mark in text}
    published, sources = published_rows(table)
    spent = ["none" if row[1] == "–" else row[1] for row in rows]
    grid = Grid(
        caption(table),
        [
            "method",
            "budget",
            "adapter parameters",
            *(f"{name} {unit}" for name, unit in heads.values()),
        ],
        rows + published,
        units={j: unit for j, (_, unit) in enumerate(heads.values(), _FIRST_SCORE)},
        bold=bold,
        underlined=underlined,
        rules=budget_starts(table.rows) | ({len(rows)} if published else set()),
        spare={1: f"budgets, from rule to rule: {', '.join(dict.fromkeys(spent))}"},
        notes=[*score_notes(table, marks, bool(bold), untested, lacking), *sources],
    )
    return transposed(grid) if table.view.transposed else grid


def medians(table: Table) -> Grid:
    """Returns the median of each cell, and the number of its runs."""

    def cell(row: Row, task: str) -> str:
        """Returns `82.0 (3)`, a dash without a score."""
        known = table.values(row, task).values()
        return f"{statistics.median(known):.1f} ({len(known)})" if known else "–"

    tasks = table.tasks
    rows = [
        [table.title(row.method), budget_in_words(row.budget), *(cell(row, t) for t in tasks)]
        for row in table.rows
    ]
    head = ["method", "budget", *map(table.view.title, tasks)]
    text = f"{caption(table)}: median (n)"
    units = {j: table.view.unit(task) for j, task in enumerate(tasks, 2)}
    grid = Grid(text, head, rows, units=units, rules=budget_starts(table.rows), name="medians")
    return transposed(grid) if table.view.transposed else grid


def _heads(table: Table) -> Heads:
    """Returns the heads of the scores: `SST-2` and `acc`."""
    view = table.view
    # An average over a choice of tasks must not pass for that of a paper or of a whole study.
    average = f"{AVERAGE} of {len(table.averaged)}" if table.not_averaged else AVERAGE
    return {
        column: (average, "[95 %]") if column is None else (view.name(column), view.unit(column))
        for column in table.columns
    }


def _marked(
    table: Table,
    heads: Heads,
    leading: Mapping[tuple[str, str | None], Leaders],
) -> tuple[set[tuple[int, int]], set[tuple[int, int]], list[str]]:
    """Returns the places of the best scores, and of those that the seeds cannot tell from them.

    The third value names the scores that no test compares with the best.
    """
    bold, underlined, untested = set(), set(), []
    for j, (column, (name, _)) in enumerate(heads.items(), _FIRST_SCORE):
        for i, row in enumerate(table.rows):
            found = leading.get((row.budget, column))
            bold |= {(i, j)} if found and row in found.best else set()
            underlined |= {(i, j)} if found and row in found.alike else set()
            if found and row in found.untested:
                untested.append(f"{table.row_title(row)} on {name}")
    return bold, underlined, untested


def _uncompared(table: Table, heads: Heads, found: Mapping[Row, Sequence[str | None]]) -> list[str]:
    """Returns `DoRA r8 on RTE, average` for each row; without columns where it is all of them."""
    named = []
    for row, columns in found.items():
        names = ", ".join(name for column, (name, _) in heads.items() if column in columns)
        where = "" if len(columns) == len(heads) else f" on {names}"
        named.append(f"{table.row_title(row)}{where}")
    return named


def _score(table: Table, row: Row, column: str | None) -> str:
    """Returns a cell: `83.0 ± 3.6*§ (n = 2/3)`, a dash without a defined score."""
    if column is None:
        estimate = table.mean(row, None)
        return "–" if estimate is None else with_interval(estimate)
    known = list(table.values(row, column).values())
    if not known:
        return "–"
    # One seed has no spread: nothing is shown, rather than ± 0.0.
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    # The number of seeds only where it is not the whole table's.
    number = "" if len(known) == len(table.seeds) else f" (n = {len(known)}/{len(table.seeds)})"
    return f"{statistics.mean(known):.1f}{spread}{_marks_of(table, row, column)}{number}"


def _marks_of(table: Table, row: Row, task: str) -> str:
    """Returns the marks of a cell, in the order of MARKS."""
    runs = table.runs_of(row, task)
    holds = {
        "*": any(run["results"][table.view.score]["degenerate"] for run in runs),
        "§": any(map(dirty, runs)),
        "‡": any(departures(table, row, task)),
    }
    return "".join(mark for mark in MARKS if holds[mark])


def with_interval(estimate: Estimate, sign: str = "") -> str:
    """Returns `71.0 [68.5, 73.5]`, the interval only where it is known; `sign`: "+" or ""."""
    low, high = estimate.interval()
    text = f"{estimate.mean:{sign}.1f}"
    return text if math.isnan(low) else f"{text} [{low:{sign}.1f}, {high:{sign}.1f}]"


def parameters(table: Table, row: Row) -> str:
    """Returns the parameters that a row's runs store beside the head, or that they are `all`."""
    runs = table.runs_of(row)
    if not runs:
        return "–"
    text = size_range([adapter_parameters(run, table.view.score) for run in runs])
    return f"all {text}" if all(map(trains_all, runs)) else text


def caption(table: Table) -> str:
    """Returns the words that begin the captions of all tables of a study."""
    view = table.view
    length = [] if table.steps is None else [f"{table.steps:,} steps"]
    first = [model_title(table.model), table.data_title, *length]
    return ", ".join([*first, f"{view.score} evaluation", *view.choice])
