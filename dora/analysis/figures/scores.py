"""Figures of scores: against the budget, and as differences from the baseline.

Each function takes a table and returns a figure and the numbers drawn, or None where there is
nothing to draw. With `part`, a task or `AVERAGE`, it draws that alone, with the whole table's
numbers.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from dora.analysis.comparison import Difference, differences
from dora.analysis.figures.log_axis import logarithmic, spread
from dora.analysis.figures.style import legend, panels, styles, titles
from dora.analysis.names import size
from dora.analysis.rows import Row, budget_in_words, has_budget
from dora.analysis.stats import average
from dora.analysis.table import Table
from dora.records.about_method import adapter_parameters
from dora.records.schema import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_APART = 0.08  # inches between the bars of two methods in the figure of differences
AVERAGE = "average"  # the name of the average over tasks, among those of tasks
Line = dict[str, Any]  # one point of a figure, as a line of its CSV
Lines = list[Line]
Drawn = tuple["Figure", Lines]
Cost = Callable[[Run, str], float]  # of a run, in the weights that its score, best or last, is of


def row_of(line: Line) -> Row:
    """Returns the row of the table that a line is of."""
    return line["method"], line["budget"]


def methods(rows: list[Row]) -> list[str]:
    """Returns the methods of some rows, each once, in the order of the rows."""
    return list(dict.fromkeys(method for method, _ in rows))


def score_by_budget(table: Table, part: str | None = None) -> Drawn | None:
    """Draws scores against adapter parameters: means over seeds with their 95 % intervals.

    A method without a budget is a line across.
    """
    columns = [(table.view.title(t), [t]) for t in table.averaged if part in (None, t)]
    if len(table.averaged) > 1 and part in (None, AVERAGE):
        columns.append((AVERAGE, table.averaged))
    lines = [
        line
        for title, tasks in columns
        for row in table.rows
        if (line := _mean(table, row, title, tasks)) is not None
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
    look = styles(methods(table.rows))
    figure, axes = panels([title for title, _ in columns])
    for panel, (title, _) in zip(axes, columns, strict=True):
        for line in lines:
            if line["score"] == title and not has_budget(row_of(line)):
                _across(panel, line, look[line["method"]]["color"])
        # The same limits in every panel, also where a task has no adapters yet.
        logarithmic(panel, sizes, ticks, lambda tick: size(round(tick)))
        points = [p for p in with_budget if p["score"] == title]
        with_intervals(panel, spread(panel, [p["adapter_params"] for p in points]), points, look)
    titles(figure, "adapter parameters", f"{table.view.score} score")
    legend(figure, axes, table.title)
    return figure, lines


def _mean(table: Table, row: Row, title: str, tasks: list[str]) -> Line | None:
    """Returns the row's score over the tasks, None unless each of them has a value."""
    if (found := mean_with_interval(table, row, tasks)) is None:
        return None
    return {
        "score": title,
        "method": row[0],
        "budget": row[1],
        "adapter_params": mean_cost(table, row, tasks, adapter_parameters),
        **found,
    }


def mean_with_interval(table: Table, row: Row, tasks: Sequence[str]) -> dict[str, float] | None:
    """Returns a row's mean over the tasks and its interval's ends: {"mean", "low", "high"}.

    Returns None unless each of the tasks has a score.
    """
    groups = [list(table.values(row, t).values()) for t in tasks]
    if not groups or not all(groups):
        return None
    estimate = average(groups)
    low, high = estimate.interval()
    return {"mean": estimate.mean, "low": low, "high": high}


def mean_cost(table: Table, row: Row, tasks: Sequence[str], cost: Cost) -> float:
    """Returns the mean over tasks of a row's mean cost of a run; each task must have a run.

    Averaged as scores are: a task with more seeds than another weighs no more.
    """
    score = table.view.score
    of_tasks = [[cost(run, score) for run in table.runs_of(row, task)] for task in tasks]
    return statistics.fmean(map(statistics.fmean, of_tasks))


def _across(panel: Axes, line: Line, colour: str) -> None:
    """Draws a score without a budget as a line across the panel, its interval as a band."""
    panel.axhline(line["mean"], color=colour, linestyle="--", label=line["method"])
    if not math.isnan(line["low"]):
        panel.axhspan(line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)


def with_intervals(
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
    averages = differences(table) if len(table.averaged) > 1 else []
    # The differences are the whole table's, also for a part: p values are corrected for all of its
    # comparisons.
    every = [*differences(table, by_task=True), *averages]
    found = [d for d in every if part in (None, d.task or AVERAGE)]
    if not found:
        return None
    names: dict[str | None, str] = {None: AVERAGE}
    names |= {task: table.view.title(task) for task in table.tasks}
    lines = [_difference(d, names[d.task]) for d in found]
    there = {line["score"] for line in lines}
    # The average between the tasks that are in it and those that are not.
    order = [names[t] for t in [*table.averaged, None, *table.apart]]
    scores = [name for name in order if name in there]
    budgets = list(dict.fromkeys(line["budget"] for line in lines))
    # The legend names those with a mark: a method without two seeds of the baseline's has none.
    shown = [name for name in methods(table.rows) if name in {line["method"] for line in lines}]
    look = styles(methods(table.rows))
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
    low, high = d.estimate.interval()
    return {
        "method": d.row[0],
        "budget": d.row[1],
        "score": name,
        "mean": d.estimate.mean,
        "low": low,
        "high": high,
        "p_holm": d.p,
    }
