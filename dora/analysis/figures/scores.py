"""The figure of scores against the budget."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

from dora.analysis.figures.log_axis import logarithmic, spread
from dora.analysis.figures.points import Drawn, Line, draw_means, end_at_100, mean_and_ends, row_of
from dora.analysis.figures.style import legend, panels, styles, titles
from dora.analysis.names import size
from dora.analysis.rows import has_budget
from dora.analysis.table import AVERAGE, Table
from dora.records.about_method import adapter_parameters
from dora.records.place import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def score_by_budget(table: Table, part: str | None = None) -> Drawn | None:
    """Draws scores against adapter parameters: means over seeds with their 95 % intervals.

    A method without a budget is a line across. `part`: a task or `AVERAGE`, to be drawn alone.
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
        end_at_100(panel)
    titles(figure, "adapter parameters", f"{table.view.score} score")
    legend(figure, axes, table.title)
    return figure, lines


def _mean(table: Table, row: Row, column: str | None) -> Line | None:
    """Returns the row's score in a column, None unless each of its tasks has a value."""
    if (estimate := table.mean(row, column)) is None:
        return None
    return {
        "score": table.column_title(column),
        "method": row.method,
        "budget": row.budget,
        "adapter_params": table.mean_cost(row, table.over(column), adapter_parameters),
        **mean_and_ends(estimate),
    }


def _across(panel: Axes, line: Line, colour: str) -> None:
    """Draws a score without a budget as a line across the panel, its interval as a band."""
    panel.axhline(line["mean"], color=colour, linestyle="--", label=line["method"])
    if not math.isnan(line["low"]):
        panel.axhspan(line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)
