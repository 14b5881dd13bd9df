"""Logarithmic axes across: their limits and ticks, and where marks stand that would overlap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABEL = 0.42  # inches, the room of a tick's label
_MARK = 0.07  # inches, the room of a mark with the caps of its bar


def logarithmic(
    panel: Axes, places: Sequence[float], ticks: Sequence[float], name: Callable[[float], str]
) -> None:
    """Makes a panel's axis across logarithmic, with room for marks at `places`.

    Those of `ticks` that there is room for have a label.
    """
    low, high = min(places), max(places)
    # A factor of 2 at least: sizes that differ by a component are one size. The outer eighths are
    # for the marks that `spread` moves aside.
    room = max(1.2, math.sqrt(2 * low / high), (high / low) ** 0.17)
    panel.set_xscale("log")
    panel.set_xlim(low / room, high * room)
    labelled = apart(ticks, _factor(panel, _LABEL))
    panel.set_xticks(labelled, list(map(name, labelled)))
    panel.minorticks_off()


def _width(panel: Axes) -> float:
    """Returns the width of a panel in inches."""
    return float(panel.bbox.width / panel.figure.dpi)


def _factor(panel: Axes, inches: float) -> float:
    """Returns the factor between two places that far from each other on a logarithmic axis."""
    low, high = panel.get_xlim()
    return math.exp(inches / _width(panel) * math.log(high / low))


def apart(places: Sequence[float], factor: float) -> list[float]:
    """Returns those of ascending places that are at least such a factor from each other."""
    found = list(places[:1])
    for place in places[1:]:
        if place >= factor * found[-1]:
            found.append(place)
    return found


def spread(panel: Axes, places: Sequence[float]) -> list[float]:
    """Returns where marks at `places` are drawn on a panel's logarithmic axis.

    Marks nearer than they are wide stand side by side around their places, so that the methods of
    one budget do not hide each other. They keep their order; those within 5 % of each other are as
    good as equal, and have the order given. None is moved by more than an eighth of the panel: many
    stand closer.
    """
    inch = math.log(_factor(panel, 1))
    equals: list[list[int]] = []
    for i in sorted(range(len(places)), key=places.__getitem__):
        if not equals or places[i] > 1.05 * places[equals[-1][0]]:
            equals.append([])
        equals[-1].append(i)
    order = [i for group in equals for i in sorted(group)]
    inches = [math.log(places[i]) / inch for i in order]
    gap = _MARK
    moved = _apart_by(gap, inches)
    farthest = _width(panel) / 8
    while any(abs(a - b) > farthest for a, b in zip(moved, inches, strict=True)):
        gap *= 0.9
        moved = _apart_by(gap, inches)
    drawn = list(places)
    for i, place in zip(order, moved, strict=True):
        drawn[i] = math.exp(place * inch)
    return drawn


def _apart_by(gap: float, places: Sequence[float]) -> list[float]:
    """Returns places moved as little as makes each lie a gap or more beyond the one before.

    By least squares: less i * gap the places must not descend, which is isotonic regression.
    """
    # Late: SciPy takes a third of a second to import.
    from scipy.optimize import isotonic_regression

    if not places:  # which SciPy refuses
        return []
    levels = isotonic_regression([place - i * gap for i, place in enumerate(places)]).x
    return [float(level) + i * gap for i, level in enumerate(levels)]
