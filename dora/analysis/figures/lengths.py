"""The figure of score against the number of training steps, and where methods cross the baseline.

It takes the tables of one data source and model, one for each length (View.by_length).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from dora.analysis.figures.log_axis import logarithmic, spread
from dora.analysis.figures.points import Drawn, Line, Lines, draw_means, end_at_100, mean_and_ends
from dora.analysis.figures.style import legend, panels, styles, titles
from dora.analysis.rows import budget_order, has_budget
from dora.analysis.stats import ROUNDING
from dora.analysis.table import Table
from dora.data.tasks import TASKS
from dora.records.about_method import NO_BUDGET

NAME = "score-by-length"
CROSSES = "crosses"  # marks a line of the CSV whose steps and score are those of a crossing


def groups(tables: Sequence[Table]) -> list[list[Table]]:
    """Returns the tables of each data source and model, the shortest runs first."""
    found: dict[tuple[str, str], list[Table]] = {}
    for table in tables:
        if table.steps is not None:
            found.setdefault((table.data, table.model), []).append(table)
    return [sorted(its, key=lambda table: table.steps or 0) for its in found.values()]


def score_by_length(tables: Sequence[Table]) -> Drawn | None:
    """Draws scores against steps: means over seeds with their 95 % intervals, a panel for each task.

    Each method at the largest budget of all tables. A cross stands where a method's line crosses
    the baseline's. Tasks are those of any length; their average has a point where a length has all
    of them, since other tasks would look like an effect of the length. A panel without a line is
    left out. Returns None unless some method has scores at two lengths.
    """
    view = tables[0].view
    tasks = [task for task in TASKS if any(task in table.averaged for table in tables)]
    columns = [*tasks, None] if len(tasks) > 1 else tasks
    lines = [line for column in columns for line in _lines(tables, column, tasks)]
    shown = list(dict.fromkeys(method for table in tables for method in table.methods))
    drawn = [p for p in lines if len(_curve(lines, p["score"], p["method"])) > 1]
    heads = list(dict.fromkeys(p["score"] for p in drawn))
    if not heads:
        return None
    crossings = [
        c for title in heads for m in shown for c in crossing(drawn, title, m, view.baseline)
    ]
    look = styles(shown)
    figure, axes = panels(heads)
    for panel, title in zip(axes, heads, strict=True):
        here = [p for p in drawn if p["score"] == title]
        steps = [p["steps"] for p in here]
        logarithmic(panel, steps, sorted(set(steps)), lambda step: f"{step:,}")
        draw_means(panel, spread(panel, steps), here, look)
        for c in (c for c in crossings if c["score"] == title):
            cross = {"marker": "x", "markersize": 6, "color": look[c["method"]]["color"]}
            panel.plot([c["steps"]], [c["mean"]], linestyle="none", zorder=5, **cross)
        end_at_100(panel)
    titles(figure, "steps of training", f"{view.score} score")
    # By a table that has the method: the longest may lack it.
    names = {method: table.title(method) for table in tables for method in table.methods}
    legend(figure, axes, names.__getitem__)
    return figure, [*drawn, *crossings]


def _lines(tables: Sequence[Table], column: str | None, tasks: Sequence[str]) -> Iterator[Line]:
    """Yields a line for each method and length with a score; an average is over all of `tasks`."""
    budgets = [row.budget for table in tables for row in table.rows if has_budget(row)]
    shown = {NO_BUDGET, max(budgets, key=budget_order, default=NO_BUDGET)}
    for table in tables:
        if column is None and table.averaged != tasks:
            continue
        for row in (row for row in table.rows if row.budget in shown):
            if (estimate := table.mean(row, column)) is None:
                continue
            yield {
                "score": table.column_title(column),
                "method": row.method,
                "budget": row.budget,
                "steps": table.steps,
                **mean_and_ends(estimate),
                CROSSES: False,
            }


def _curve(lines: Lines, title: str, method: str) -> Lines:
    """Returns a method's line in a panel, the shortest runs first."""
    found = [p for p in lines if (p["score"], p["method"]) == (title, method)]
    return sorted(found, key=lambda p: p["steps"])


def crossing(lines: Lines, title: str, method: str, baseline: str) -> Lines:
    """Returns the points where a method's line crosses the baseline's, among lengths of both.

    The lines are straight in the logarithm of the steps, as they are drawn. Lines that meet at a
    length cross there if they change sides; where they are one over several lengths, at the first
    of these. Lines that touch without changing sides don't cross.
    """
    if method == baseline:
        return []
    bases = {p["steps"]: p["mean"] for p in _curve(lines, title, baseline)}
    both = [p for p in _curve(lines, title, method) if p["steps"] in bases]
    less = [p["mean"] - bases[p["steps"]] for p in both]
    found: Lines = []
    for i, j in pairwise(i for i, difference in enumerate(less) if abs(difference) > ROUNDING):
        if less[i] * less[j] > 0:
            continue
        if j > i + 1:  # the lines meet at the lengths between
            steps, mean = both[i + 1]["steps"], both[i + 1]["mean"]
        else:
            a, b = both[i], both[j]
            share = less[i] / (less[i] - less[j])
            steps = round(a["steps"] * (b["steps"] / a["steps"]) ** share)
            mean = a["mean"] + share * (b["mean"] - a["mean"])
        nothing = {"low": math.nan, "high": math.nan}
        found.append({**both[i], **nothing, "steps": steps, "mean": mean, CROSSES: True})
    return found
