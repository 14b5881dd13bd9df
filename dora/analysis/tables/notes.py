"""Notes below the scores, which say what a reader must know of the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from dora.analysis.comparison import ALPHA
from dora.analysis.names import size, size_range, task_titles
from dora.analysis.rows import budget_in_words, has_budget, row_order
from dora.analysis.table import Table
from dora.analysis.tables.run_notes import earlier_runs, run_notes
from dora.analysis.tables.unlike import sources, unlike
from dora.data.tasks import TASKS
from dora.records.about_method import adapter_parameters

# Marks of a score with their explanations, in the order in which they stand.
MARKS = {
    "*": "* at least one run predicts a single class or value (a correlation then counts as 0), or has logits that are not finite",
    "§": "§ at least one run was made with uncommitted changes",
    "‡": "‡ further from the published mean ± spread than the combined error",
}


def score_notes(
    table: Table,
    marks: set[str],
    bold: bool,
    untested: Sequence[str] = (),
    uncompared: Sequence[str] = (),
) -> list[str]:
    """Returns the notes below the scores: sources, seeds, evaluations, bold, gaps, marks.

    `untested`: the names of the scores that no test compares with the bold one. `uncompared`: the
    names of the scores that are not compared with the baseline.
    """
    found = [*run_notes(table), *_average_notes(table)]
    if bold:
        found.append(
            "bold: the best mean at its budget that no test shows to be lower than another; underlined: "
            f"not shown to be lower than the bold one (p ≥ {ALPHA}); {_tests_note(table)}"
        )
    if untested:
        found.append(
            "not tested against the bold score, and so not marked however high: "
            f"{', '.join(untested)} (fewer than two seeds in common)"
        )
    if uncompared:
        found.append(
            f"not compared with {table.baseline}: {'; '.join(uncompared)} (fewer than two seeds in "
            "common)"
        )
    found += [f"left out: {text}" for text in table.left_out]
    found += [*_budgets_note(table), *_unequal_note(table), *_diverged_note(table)]
    found += [*earlier_runs(table), *unlike(table), *sources(table)]
    return found + [text for mark, text in MARKS.items() if mark in marks]


def _budgets_note(table: Table) -> list[str]:
    """Returns the note on budgets that look alike: methods are compared at equal ones alone."""
    budgets: dict[str, set[str]] = {}
    for row in filter(has_budget, table.rows):
        budgets.setdefault(budget_in_words(row.budget), set()).add(row.budget)
    return [
        f"{shown} stands for budgets of {' and of '.join(sorted(its))}, not compared with each other"
        for shown, its in budgets.items()
        if len(its) > 1
    ]


def _unequal_note(table: Table) -> list[str]:
    """Returns the note on rows that have fewer parameters than others at their budget."""
    fewer, by_rank = [], False
    for block in filter(lambda block: has_budget(block[0]), table.blocks):
        sizes = {
            row: [adapter_parameters(run, table.view.score) for run in table.runs_of(row)]
            for row in block
        }
        most = max((n for its in sizes.values() for n in its), default=0)
        below = [row for row, its in sizes.items() if its and min(its) < 0.99 * most]
        fewer += [
            f"{table.title(row.method)} ({size_range(sizes[row])} of {size(most)})" for row in below
        ]
        by_rank = by_rank or any(row.budget.startswith("r") for row in below)
    if not fewer:
        return []
    why = ", since a budget such as r8 is an average rank and no size" if by_rank else ""
    return [f"fewer parameters than others at the budget: {', '.join(fewer)}{why}"]


def _diverged_note(table: Table) -> list[str]:
    """Returns the note on runs that diverged: a mean over the others says nothing of them."""
    named = []
    for row, task in product(sorted({row for row, _ in table.diverged}, key=row_order), TASKS):
        if seeds := sorted(table.diverged.get((row, task), [])):
            budget = f" {budget_in_words(row.budget)}" if has_budget(row) else ""
            which = f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
            named.append(f"{table.title(row.method)}{budget} on {TASKS[task].folder} ({which})")
    return [f"diverged runs, left out of every number: {'; '.join(named)}"] if named else []


def _tests_note(table: Table) -> str:
    """Returns which tests the marks of the scores use (`dora.analysis.comparison.leaders`)."""
    if not any(row.method == table.view.baseline for row in filter(has_budget, table.rows)):
        return "p corrected (Holm) for all pairs of methods at a budget"
    return (
        f"pairs with {table.baseline} are tested as in the tables of differences, p of other pairs is "
        "corrected (Holm) for all pairs of methods at a budget"
    )


def _average_notes(table: Table) -> list[str]:
    """Returns the notes on the tasks that the average is over, and on errors that it lacks."""
    if None not in table.columns:
        return []
    text = f"average: over {task_titles(table.averaged)}"
    text += f", without {task_titles(table.apart)}" if table.apart else ""
    if table.not_averaged:
        text += f"; not over {task_titles(table.not_averaged)}, of which there are runs, too"
    # As of runs that all predict one class.
    alike = {
        table.row_title(row): tasks
        for row in table.rows
        if table.mean(row, None) is not None
        and (tasks := [t for t in table.averaged if (e := table.mean(row, t)) and e.error == 0])
    }
    if not alike:
        return [text]
    named = "; ".join(f"{title} on {task_titles(tasks)}" for title, tasks in alike.items())
    return [
        text,
        "average: the interval is too narrow, or absent, where every seed has the same score, whose "
        f"error then counts as 0: {named}",
    ]
