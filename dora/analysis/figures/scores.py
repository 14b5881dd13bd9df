"""Figures of scores: against the budget, and as differences from the baseline.

Each function takes a table and returns a figure and the numbers drawn, or None where there is
nothing to draw. With `part`, a task or `AVERAGE`, it draws that alone, with the whole table's
numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, product
from typing import TYPE_CHECKING, Any

from dora.analysis.comparison import Difference, differences
from dora.analysis.figures.log_axis import logarithmic, spread
from dora.analysis.figures.style import legend, panels, styles, titles
from dora.analysis.names import size
from dora.analysis.rows import Row, budget_in_words, has_budget
from dora.analysis.stats import Estimate
from dora.analysis.table import AVERAGE, Table
from dora.records.about_method import adapter_parameters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_APART = 0.08  # inches between the bars of two methods in the figure of differences
Line = dict[str, Any]  # one point of a figure, as a line of its CSV
Lines = list[Line]
Drawn = tuple["Figure", Lines]


def row_of(line: Line) -> Row:
    """Returns the row of the table that a line is of."""
    return line["method"], line["budget"]


def score_by_budget(table: Table, part: str | None = None) -> Drawn | None:
    """Draws scores against adapter parameters: means over seeds with their 95 % intervals.

    A method without a budget is a line across.
    """
    columns = [c for c in table.columns if c not in table.apart and part in (None, c or AVERAGE)]
    lines = [
        line
        for column, row in product(columns, table.rows)
        if (line := _mean(table, row, column)) is not None
    ]
    # An adapter of no component, which an upper bound allows, has no place on a logarithmic axis.
    with_budget = [
        line for line in lines if has_budget(row_of(line)) and line["adapter_params"] > 0
    ]
    sizes = [line["adapter_params"] for line in with_budget]
    if not sizes:
        return None
    # A tick at each of the baseline's sizes: other methods end beside them, by a component or two.
    bases = {
        round(line["adapter_params"])
        for line in with_budget
        if line["method"] == table.view.baseline
    }
    ticks = sorted(bases) or [max(sizes)]
    look = styles(table.methods)
    heads = list(map(table.column_title, columns))
    figure, axes = panels(heads)
    for panel, title in zip(axes, heads, strict=True):
        for line in lines:
            if line["score"] == title and not has_budget(row_of(line)):
                _across(panel, line, look[line["method"]]["color"])
        # The same limits in every panel, also where a task has no adapters yet.
        logarithmic(panel, sizes, ticks, lambda tick: size(round(tick)))
        points = [p for p in with_budget if p["score"] == title]
        draw_means(panel, spread(panel, [p["adapter_params"] for p in points]), points, look)
    titles(figure, "adapter parameters", f"{table.view.score} score")
    legend(figure, axes, table.title)
    return figure, lines


def _mean(table: Table, row: Row, column: str | None) -> Line | None:
    """Returns the row's score in a column, None unless each of its tasks has a value."""
    tasks = table.over(column)
    if (estimate := table.mean(row, tasks)) is None:
        return None
    return {
        "score": table.column_title(column),
        "method": row[0],
        "budget": row[1],
        "adapter_params": table.mean_cost(row, tasks, adapter_parameters),
        **with_interval(estimate),
    }


def with_interval(estimate: Estimate) -> Line:
    """Returns a mean and the ends of its interval, as columns of a figure's CSV."""
    low, high = estimate.interval()
    return {"mean": estimate.mean, "low": low, "high": high}


def _across(panel: Axes, line: Line, colour: str) -> None:
    """Draws a score without a budget as a line across the panel, its interval as a band."""
    panel.axhline(line["mean"], color=colour, linestyle="--", label=line["method"])
    if not math.isnan(line["low"]):
        panel.axhspan(line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)


def draw_means(
    panel: Axes, places: Sequence[float], points: Lines, look: dict[str, dict[str, Any]]
) -> None:
    """Draws points at `places` across with their intervals, a line a method from left to right."""
    for method in dict.fromkeys(p["method"] for p in points):
        of_method = sorted(
            (place, p["mean"], p["mean"] - p["low"], p["high"] - p["mean"])
            for place, p in zip(places, points, strict=True)
            if p["method"] == method
        )
        x, means, below, above = map(list, zip(*of_method, strict=True))
        panel.errorbar(
            x,
            means,
            yerr=[below, above],
            capsize=2,
            markersize=4,
            linewidth=1,
            label=method,
            **look[method],
        )


def paired_differences(table: Table, part: str | None = None) -> Drawn | None:
    """Draws each method less the baseline with its 95 % interval, a panel a budget."""
    # The differences are the whole table's, also for a part: p values are corrected for all of its
    # comparisons.
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
    heads = [f"budget {budget_in_words((table.view.baseline, budget))}" for budget in budgets]
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
        "method": d.row[0],
        "budget": d.row[1],
        "score": name,
        **with_interval(d.estimate),
        "p_holm": d.p,
    }
