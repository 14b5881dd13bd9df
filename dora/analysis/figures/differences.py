"""The figure of differences from the baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

from dora.analysis.comparison import Difference, differences
from dora.analysis.figures.points import Drawn, Line, Lines, mean_and_ends, row_of
from dora.analysis.figures.style import legend, panels, styles, titles
from dora.analysis.rows import budget_in_words
from dora.analysis.table import AVERAGE, Table

_APART = 0.08  # inches between the bars of two methods


def paired_differences(table: Table, part: str | None = None) -> Drawn | None:
    """Draws each method less the baseline with its 95 % interval, a panel a budget.

    `part`: a task or `AVERAGE`, to be drawn alone; its p values are still corrected for all
    comparisons of the table.
    """
    found = [d for d in differences(table) if part in (None, d.task or AVERAGE)]
    if not found:
        return None
    averages_last = sorted(found, key=lambda d: d.task is None)
    lines = [_difference(d, table.column_title(d.task)) for d in averages_last]
    there = {line["score"] for line in lines}
    scores = [name for name in map(table.column_title, table.columns) if name in there]
    budgets = list(dict.fromkeys(line["budget"] for line in lines))
    # The legend names those with a mark: a method without two seeds of the baseline's has none.
    with_mark = {line["method"] for line in lines}
    shown = [method for method in table.methods if method in with_mark]
    look = styles(table.methods)
    heads = [f"budget {budget_in_words(budget)}" for budget in budgets]
    bands = _bands(lines, scores)
    height = sum(bands.values())
    figure, axes = panels(heads, width=2.4, height=height, left=1.0, same_y=True)
    for panel, budget in zip(axes, budgets, strict=True):
        panel.axvline(0, color="0.6", linewidth=0.8)
        heights = _heights([p for p in lines if p["budget"] == budget], bands, shown)
        for method in shown:
            here = [p for p in lines if row_of(p) == (method, budget)]
            error = [[p["mean"] - p["low"] for p in here], [p["high"] - p["mean"] for p in here]]
            panel.errorbar(
                [p["mean"] for p in here],
                [heights[p["score"], method] for p in here],
                xerr=error,
                linestyle="none",
                capsize=2,
                markersize=4,
                linewidth=1,
                label=method,
                **look[method],
            )
        ends = list(accumulate(bands.values()))
        panel.set_yticks([end - band / 2 for end, band in zip(ends, bands.values(), strict=True)])
        panel.set_yticklabels(bands)
        for end in ends[:-1]:
            panel.axhline(end, color="0.9", linewidth=0.6)
        panel.set_ylim(height, 0)  # downwards, in the order of the tables
    titles(figure, f"points more than {table.baseline}, 95 % interval over seeds")
    legend(figure, axes, table.title)
    return figure, lines


def _bands(lines: Lines, scores: Sequence[str]) -> dict[str, float]:
    """Returns the height in inches of each score's band: room for its methods at any budget."""
    most = dict.fromkeys(scores, 0)
    for (score, _), number in Counter((p["score"], p["budget"]) for p in lines).items():
        most[score] = max(most[score], number)
    return {score: max(0.32, _APART * (number + 1)) for score, number in most.items()}


def _heights(
    lines: Lines, bands: Mapping[str, float], shown: Sequence[str]
) -> dict[tuple[str, str], float]:
    """Returns the height of each mark by score and method, of the lines of one budget.

    The methods that a score has stand around the middle of its band. In inches from the top.
    """
    heights, top = {}, 0.0
    for score, band in bands.items():
        there = {line["method"] for line in lines if line["score"] == score}
        for i, method in enumerate(m for m in shown if m in there):
            heights[score, method] = top + band / 2 + _APART * (i - (len(there) - 1) / 2)
        top += band
    return heights


def _difference(d: Difference, name: str) -> Line:
    return {
        "method": d.row.method,
        "budget": d.row.budget,
        "score": name,
        **mean_and_ends(d.estimate),
        "p_holm": d.p,
    }
