"""The figure of what a score costs: adapter parameters, and time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dora.analysis.figures.log_axis import logarithmic, spread
from dora.analysis.figures.points import Drawn, Line, Lines, end_at_100, mean_and_ends, row_of
from dora.analysis.figures.style import legend, panels, styles, titles
from dora.analysis.names import size
from dora.analysis.stats import ROUNDING
from dora.analysis.table import AVERAGE, Cost, Table, train_seconds
from dora.records.about_method import adapter_parameters
from dora.records.place import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# The size of a method's mark at its smallest budget, and the most by which those of larger ones are
# larger: with twenty budgets they would else cover the panel.
_SMALLEST, _GROWTH = 4, 5
# The axis of each panel: its title, and the cost of a run.
COSTS: dict[str, Cost] = {
    "adapter parameters": adapter_parameters,
    "seconds of training": train_seconds,
}


def score_by_cost(table: Table) -> Drawn | None:
    """Draws average scores against both costs, each row a point, and joins those none beats.

    A point is beaten by one that costs no more and scores more: those left are the Pareto front.
    """
    lines = [line for row in table.rows for title in COSTS if (line := _point(table, row, title))]
    if len(set(map(row_of, lines))) < 2:
        return None  # one point compares nothing
    look = styles(table.methods)
    # Costs of 0 alone, as of methods that end without a component, leave a panel without points.
    shown = [title for title in COSTS if any(line["cost"] == title for line in lines)]
    figure, axes = panels(shown, width=2.6, narrowest=1.3)
    for panel, title in zip(axes, shown, strict=True):
        points = [line for line in lines if line["cost"] == title]
        best = front(points)
        for point in points:
            point["on_front"] = point in best
        # From the cheapest: the line over marks that stand side by side leads to the right.
        cheapest_first = sorted(points, key=lambda p: p["value"])
        costs = [p["value"] for p in cheapest_first]
        logarithmic(panel, costs, costs, lambda tick: size(round(tick)))
        places = dict(zip(map(row_of, cheapest_first), spread(panel, costs), strict=True))
        across, means = [places[row_of(p)] for p in best], [p["mean"] for p in best]
        panel.plot(across, means, color="0.6", linewidth=0.8)
        _draw(panel, points, places, look)
        end_at_100(panel)
    of = AVERAGE if None in table.columns else table.view.title(table.averaged[0])
    titles(figure, "cost", f"{table.view.score} score, {of}")
    legend(figure, axes, table.title)
    return figure, lines


def _point(table: Table, row: Row, title: str) -> Line | None:
    """Returns a row's average score and its cost; None unless every task has a score."""
    estimate = table.mean(row, None)
    if estimate is None:
        return None
    value = table.mean_cost(row, table.averaged, COSTS[title])
    if value <= 0:  # has no place on a logarithmic axis
        return None
    return {
        "cost": title,
        "method": row.method,
        "budget": row.budget,
        "value": value,
        **mean_and_ends(estimate),
        "on_front": False,
    }


def front(points: Lines) -> Lines:
    """Returns the points that score more than every one that costs no more, cheapest first.

    Means within ROUNDING are equal: other scores with the same sum give other last bits.
    """
    best: Lines = []
    for point in sorted(points, key=lambda p: (p["value"], -p["mean"])):
        if not best or point["mean"] - best[-1]["mean"] > ROUNDING:
            best.append(point)
    return best


def _draw(
    panel: Axes, points: Lines, places: dict[Row, float], look: dict[str, dict[str, Any]]
) -> None:
    """Draws a panel's points with their intervals, a method's larger budgets with larger marks.

    `places`: where each row's point stands across.
    """
    for method in dict.fromkeys(p["method"] for p in points):
        # Rows come with the smaller budget first.
        of_method = [q for q in points if q["method"] == method]
        for i, p in enumerate(of_method):
            panel.errorbar(
                [places[row_of(p)]],
                [p["mean"]],
                yerr=[[p["mean"] - p["low"]], [p["high"] - p["mean"]]],
                capsize=2,
                markersize=_SMALLEST + min(1, _GROWTH / len(of_method)) * i,
                linewidth=1,
                linestyle="none",
                label=None if i else method,
                **look[method],
            )
