"""The table of costs: parameters, time and memory."""

from __future__ import annotations

from collections.abc import Sequence

from dora.analysis.names import size_range
from dora.analysis.rows import budget_in_words, budget_starts
from dora.analysis.table import Table, train_seconds
from dora.analysis.tables.layout import Grid
from dora.analysis.tables.scores import caption, parameters
from dora.analysis.tables.unlike import trained_on
from dora.data.tasks import TASKS
from dora.plain import counted, duration

_NOTE = (
    "seconds: of training alone, by the clock, the mean over tasks of the mean over runs; if runs "
    "shared a machine, they say nothing about a method's speed, which dora.bench measures; memory: "
    "the largest that any run's process took; if a process trained several runs, it includes what "
    "was still held of earlier ones"
)


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
                table.title(row.method),
                budget_in_words(row.budget),
                str(len(runs)),
                parameters(table, row),
                size_range([run["params"]["head"] for run in runs]),
                f"{table.mean_cost(row, common, train_seconds):,.0f}" if common else "–",
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
    notes = [f"on {trained_on(table)}; {_NOTE}"]
    if len(common) < len(table.tasks):
        notes.append(f"seconds: over {over or 'no task'}, which every row has runs of")
    notes.append(_in_all(table))
    text = f"{caption(table)}: parameters, time, memory"
    return Grid(text, head, rows, rules=budget_starts(shown), name="costs", notes=notes)


def _in_all(table: Table) -> str:
    """Returns the time of all runs together, which papers' checklists ask for."""

    def took(seconds: Sequence[float]) -> str:
        """Returns `60 runs, 1 h 52 min`."""
        return f"{counted(len(seconds), 'run')}, {duration(sum(seconds))}"

    text = f"training in all: {took([run['train_s'] for run in table.runs])}"
    return text + (
        f"; the search of settings: {took(table.searched_s)}" if table.searched_s else ""
    )
