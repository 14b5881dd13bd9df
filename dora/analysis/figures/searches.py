"""The figure of held-out score against learning rate."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dora.analysis.figures.log_axis import logarithmic
from dora.analysis.figures.points import Drawn, end_at_100
from dora.analysis.figures.style import legend, panels, styles, titles
from dora.analysis.names import method_title
from dora.configuration.search_file import Key, Search, mean
from dora.data.tasks import TASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def score_by_rate(searches: Sequence[Search], named: Mapping[str, str] = {}) -> Drawn | None:
    """Draws held-out scores against the learning rate, a line for each method.

    A panel for each task and budget. Dots are seeds; the chosen rate has a ring. Crosses are other
    values of a setting of the method's own. Scores far below the others, as of runs that learned
    nothing, lie below the panel, which says how many they are. `named`: titles of methods that
    `method_title` may lack.
    """
    shown = [s for s in searches if not s.all_failed]
    if not shown:
        return None
    places = list(dict.fromkeys(map(_place, shown)))
    # Methods without a budget are drawn beside those of each one, where there is any.
    with_budget = {p._replace(budget=None) for p in places if p.budget is not None}
    places = [p for p in places if p not in with_budget]
    look = styles(list(dict.fromkeys(s.key.method for s in shown)))
    figure, axes = panels([_head(p, places) for p in places], 3)
    lines: list[dict[str, Any]] = []
    for panel, place in zip(axes, places, strict=True):
        here = [s for s in shown if _place(s) in (place, place._replace(budget=None))]
        drawn = [line for s in here for line in _draw(panel, s, look[s.key.method])]
        rates = sorted({line["lr"] for line in drawn})
        logarithmic(panel, rates, rates, label)
        _leave_out_failures(panel, drawn)
        end_at_100(panel)
        lines += drawn
    titles(figure, "learning rate", "held-out score")
    legend(figure, axes, lambda method: named.get(method, method_title(method)))
    return figure, lines


def _leave_out_failures(panel: Axes, drawn: Sequence[Mapping[str, Any]]) -> None:
    """Ends the panel above scores that would flatten all others, and says how many lie below.

    They are those further below the median than five times the best one's distance above it. No
    chosen score is left out.
    """
    scores = [line["mean"] for line in drawn]
    middle, top = statistics.median(scores), max(scores)
    chosen = [line["mean"] for line in drawn if line["chosen"]]
    # At least a point: where most scores are equal, the next one is no failure yet.
    least = min([middle - 5 * max(top - middle, 1), *chosen])
    shown = [score for score in scores if score >= least]
    if len(shown) == len(scores):
        return
    low, high = min(shown), max(panel.get_ylim()[1], top)
    panel.set_ylim(low - 0.15 * (high - low), high)
    below = f"{len(scores) - len(shown)} lower"
    panel.text(0.99, 0.02, below, ha="right", fontsize=7, transform=panel.transAxes)


def _place(s: Search) -> Key:
    """Returns the panel of a search: its key, whatever the method."""
    return s.key._replace(method="")


def _head(place: Key, places: Sequence[Key]) -> str:
    """Returns the head of a panel: the task, and what else tells it from the other panels."""
    known = ("budget", "model", "length", "data")
    several = [name for name in known if len({getattr(p, name) for p in places} - {None}) > 1]
    told = (getattr(place, name) for name in several)
    return ", ".join([TASKS[place.task].folder, *filter(None, told)])


def label(rate: float) -> str:
    """Returns a rate in two digits, as `1.4e-4`: short, to stand below a panel."""
    digits, _, power = f"{rate:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def _draw(panel: Any, s: Search, look: dict[str, Any]) -> list[dict[str, Any]]:
    """Draws one search; returns its numbers as lines of the figure's CSV."""
    rates = [lr for lr in sorted(s.scores) if not math.isinf(s.mean(lr))]
    means = [s.mean(lr) for lr in rates]
    panel.plot(rates, means, label=s.key.method, linewidth=1.2, markersize=3, **look)
    for lr in rates:
        seeds = s.scores[lr]
        panel.plot([lr] * len(seeds), seeds, ".", color=look["color"], markersize=2, alpha=0.5)
    others = {v: mean(by_seed) for v, by_seed in s.values.items() if not math.isinf(mean(by_seed))}
    cross = {"marker": "x", "markersize": 4, "linestyle": ""}
    panel.plot([s.lr] * len(others), list(others.values()), color=look["color"], **cross)
    best = s.best
    if not math.isinf(best):
        ring = {"marker": "o", "markersize": 8, "markerfacecolor": "none", "linestyle": ""}
        panel.plot([s.lr], [best], color=look["color"], **ring)
    about = dict(zip(("model", "task", "method", "budget"), s.key.cell, strict=True))
    points = [
        *((lr, s.default, score) for lr, score in zip(rates, means, strict=True)),
        *((s.lr, value, score) for value, score in others.items()),
    ]
    return [
        {
            **about,
            "lr": lr,
            "setting": s.setting,
            "value": value,
            "mean": score,
            "chosen": (lr, value) == (s.lr, s.value),
        }
        for lr, value, score in points
    ]
