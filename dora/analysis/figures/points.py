"""Points of the figures of scores: as lines of their CSV, and as drawn with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dora.analysis.stats import Estimate
from dora.records.place import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = dict[str, Any]  # one point of a figure, as a line of its CSV
Lines = list[Line]
Drawn = tuple["Figure", Lines]  # a figure and the numbers in it


def row_of(line: Line) -> Row:
    """Returns the row of the table that a line is of."""
    return Row(line["method"], line["budget"])


def mean_and_ends(estimate: Estimate) -> Line:
    """Returns a mean and the ends of its interval, as columns of a figure's CSV."""
    low, high = estimate.interval()
    return {"mean": estimate.mean, "low": low, "high": high}


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


def end_at_100(panel: Axes) -> None:
    """Ends a panel's axis of scores, in points, just above 100, if nothing drawn lies higher."""
    low, high = panel.get_ylim()
    if panel.dataLim.y1 <= 100 < high:
        # As much room as a mark at 100 needs.
        panel.set_ylim(low, 100 + 0.03 * (100 - low))
