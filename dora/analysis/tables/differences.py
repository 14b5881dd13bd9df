"""The tables of differences from the baseline: by task, and averaged."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dora.analysis.comparison import ALPHA, Difference, differences
from dora.analysis.names import task_titles
from dora.analysis.rows import budget_in_words
from dora.analysis.table import Table
from dora.analysis.tables.layout import Grid
from dora.analysis.tables.scores import caption, with_interval
from dora.plain import number_range

DETECTABLE = "detectable at 80 % power"  # the head of the column with `Difference.detectable`


def against(table: Table) -> list[Grid]:
    """Returns each method less the baseline at the same budget, paired by seed.

    One table is of averages, one by task; neither is there without a difference. Their column
    DETECTABLE says what these seeds could show.
    """
    found = differences(table)
    averages = [d for d in found if d.task is None]
    by_task = [d for d in found if d.task is not None]
    return [_grid(table, family) for family in (averages, by_task) if family]


def _grid(table: Table, found: Sequence[Difference]) -> Grid:
    """Returns the table of these differences, which are all of averages or all of tasks."""
    by_task = found[0].task is not None
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
        notes=difference_notes(found, table.baseline),
        name="differences-by-task" if by_task else "differences",
    )


def _difference(table: Table, d: Difference, shown: bool) -> list[str]:
    """Returns the line of a difference; `shown`: with its interval over examples."""
    of_examples = "–" if d.examples is None else f"[{d.examples[0]:+.1f}, {d.examples[1]:+.1f}]"
    return [
        table.title(d.row.method),
        budget_in_words(d.row.budget),
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


def difference_notes(found: Sequence[Difference], baseline: str) -> list[str]:
    """Returns the notes below a table of differences from `baseline`."""
    family = found[0].family  # all of averages or all of tasks, and so of one family
    parts = ["points, paired by seed"]
    if family > 1:
        parts.append(
            f"p (Holm) is corrected for the {family} comparisons of this table, intervals are not"
        )
    parts += [
        f"bold: p < {ALPHA}",
        f"P(better): the probability that a run of the method beats one of {baseline}",
    ]
    notes = ["; ".join(parts)]
    if not all(math.isnan(d.detectable) for d in found):
        # As a fraction: 0.0125 rounded to 0.013 would allow p values that Holm's step does not.
        least = f"{ALPHA} / {family}" if family > 1 else f"{ALPHA}"
        notes.append(
            f"{DETECTABLE}: a true difference of this size would reach p < {least} (Holm's first step) "
            "in four of five studies with as many seeds and this spread"
        )
    if any(d.task is None for d in found):
        notes.append(
            "average: its error is made of each task's error over seeds, with tasks taken as "
            "independent; its P(better) is the mean over tasks"
        )
    constant = {task for d in found if d.task is None for task in d.constant}
    if constant:
        notes.append(
            "average: too certain for a method that every seed gives the same difference on "
            f"{task_titles(constant)}, whose error then counts as 0"
        )
    if any(d.estimate.error == 0 for d in found):
        notes.append(
            "no interval: every seed gives the same difference, so that its error is unknown; p is –, "
            "or 1 for a difference of 0"
        )
    if any(d.examples for d in found):
        notes.append(
            "[95 %, examples]: over resamples of the development examples, with the seeds as they are"
        )
    return notes
