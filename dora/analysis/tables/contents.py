"""The contents of a study's tables: scores, differences, medians, costs, and all of them in order."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from dora.analysis.comparison import ALPHA, Difference, differences
from dora.analysis.names import size_range
from dora.analysis.rows import Row, budget_in_words, budget_starts
from dora.analysis.settings_that_differ import trained_on
from dora.analysis.table import Table
from dora.analysis.tables import counts
from dora.analysis.tables.layout import Grid, transposed
from dora.analysis.tables.notes import COSTS_NOTE, DETECTABLE, difference_notes
from dora.analysis.tables.run_settings import run_settings
from dora.analysis.tables.scores import caption, parameters, scores, with_interval
from dora.data.tasks import TASKS
from dora.plain import counted, duration, number_range
from dora.records.schema import Run


def medians(table: Table) -> Grid:
    """Returns the median of each cell, and the number of its runs."""

    def cell(row: Row, task: str) -> str:
        """Returns `82.0 (3)`, a dash without a score."""
        known = table.values(row, task).values()
        return f"{statistics.median(known):.1f} ({len(known)})" if known else "–"

    tasks = table.tasks
    rows = [
        [table.title(row[0]), budget_in_words(row), *(cell(row, t) for t in tasks)]
        for row in table.rows
    ]
    head = ["method", "budget", *map(table.view.title, tasks)]
    text = f"{caption(table)}: median (n)"
    units = {j: table.view.unit(task) for j, task in enumerate(tasks, 2)}
    grid = Grid(text, head, rows, units=units, rules=budget_starts(table.rows), name="medians")
    return transposed(grid) if table.view.transposed else grid


def costs(table: Table) -> Grid:
    """Returns head parameters, training time and peak memory, which scores don't show."""
    # A row that lost its only cell has no costs, but stays among the scores as a hole.
    shown = [row for row in table.rows if table.runs_of(row)]
    # A mean over other tasks than those of the other rows could not be set beside theirs.
    common = [task for task in table.tasks if all(table.runs_of(row, task) for row in shown)]
    rows = []
    for row in shown:
        runs = table.runs_of(row)
        peak = max(run["peak_memory_bytes"] for run in runs)
        rows.append(
            [
                table.title(row[0]),
                budget_in_words(row),
                str(len(runs)),
                parameters(table, row),
                size_range([run["params"]["head"] for run in runs]),
                f"{table.mean_cost(row, common, _seconds):,.0f}" if common else "–",
                f"{peak / 2**20:,.0f}",
            ]
        )
    head = [
        "method",
        "budget",
        "runs",
        "adapter parameters",
        "head parameters",
        "training s a run",
        "peak memory MiB",
    ]
    over = ", ".join(TASKS[task].folder for task in common)
    notes = [f"on {trained_on(table)}; {COSTS_NOTE}"]
    if len(common) < len(table.tasks):
        notes.append(f"seconds: over {over or 'no task'}, which every row has runs of")
    notes.append(_in_all(table))
    text = f"{caption(table)}: parameters, time, memory"
    return Grid(text, head, rows, rules=budget_starts(shown), name="costs", notes=notes)


def _seconds(run: Run, score: str) -> float:
    return float(run["train_s"])


def _in_all(table: Table) -> str:
    """Returns the time of all runs together, which papers' checklists ask for."""

    def took(seconds: Sequence[float]) -> str:
        """Returns `60 runs, 1 h 52 min`."""
        return f"{counted(len(seconds), 'run')}, {duration(sum(seconds))}"

    text = f"training in all: {took([run['train_s'] for run in table.runs])}"
    return text + (
        f"; the search of settings: {took(table.searched_s)}" if table.searched_s else ""
    )


def against(table: Table, by_task: bool) -> Grid | None:
    """Returns each method less the baseline at the same budget, paired by seed; None without any.

    Its column DETECTABLE says what these seeds could show.
    """
    found = [d for d in differences(table) if (d.task is not None) == by_task]
    if not found:
        return None
    # The column of intervals over examples only where any run has stored predictions.
    shown = any(d.examples for d in found)
    head = [
        "method",
        "budget",
        "score",
        f"− {table.baseline} [95 %, seeds]",
        *(["[95 %, examples]"] if shown else []),
        "p (Holm)",
        "P(better)",
        DETECTABLE,
        "seeds",
    ]
    return Grid(
        f"{caption(table)}: differences from {table.baseline}{' by task' if by_task else ''}",
        head,
        [_difference(table, d, shown) for d in found],
        text_columns=3,
        bold={(i, 3) for i, d in enumerate(found) if d.p < ALPHA},
        notes=difference_notes(found, shown, table.baseline),
        name="differences-by-task" if by_task else "differences",
    )


def _difference(table: Table, d: Difference, shown: bool) -> list[str]:
    """Returns the line of a difference; `shown`: with its interval over examples."""
    of_examples = "–" if d.examples is None else f"[{d.examples[0]:+.1f}, {d.examples[1]:+.1f}]"
    return [
        table.title(d.row[0]),
        budget_in_words(d.row),
        table.column_title(d.task),
        with_interval(d.estimate, "+"),
        *([of_examples] if shown else []),
        p_value(d.p),
        f"{d.better:.2f}",
        points(d.detectable),
        number_range(d.seeds),
    ]


def points(number: float) -> str:
    """Returns a number of points with one decimal, a dash where it is unknown."""
    return "–" if math.isnan(number) else f"{number:.1f}"


def p_value(p: float) -> str:
    """Returns a p-value with three decimals, a dash where it is unknown."""
    if math.isnan(p):
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def findings(table: Table) -> list[Grid]:
    """Returns the scores and the differences that the seeds show; none that repeats another."""
    found = [scores(table), against(table, by_task=False), against(table, by_task=True)]
    return [grid for grid in found if grid is not None]


def grids(table: Table) -> list[Grid]:
    """Returns every table of one data source and model, scores first."""
    rest = [
        medians(table) if len(table.seeds) > 1 else None,
        costs(table),
        counts.trained(table, caption(table)),
        counts.federated(table, caption(table)),
        run_settings(table),
    ]
    return [*findings(table), *(grid for grid in rest if grid is not None)]
