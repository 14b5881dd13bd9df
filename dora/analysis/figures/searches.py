"""The figure of held-out score against learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dora.analysis.figures.log_axis import logarithmic
from dora.analysis.figures.style import legend, panels, styles, titles
from dora.analysis.names import method_title
from dora.configuration.tuned import Search, mean
from dora.data.tasks import TASKS

if TYPE_CHECKING:
    from dora.analysis.figures.scores import Drawn

# Of a panel: model, task, budget, length, data.
_Place = tuple[str, str, str | None, str | None, str | None]


def score_by_rate(searches: Sequence[Search], named: Mapping[str, str] = {}) -> Drawn | None:
    """Draws held-out scores against the learning rate, a line for each method.

    A panel for each task and budget. Dots are seeds; the chosen rate has a ring. Crosses are other
    values of a setting of the method's own. `named`: titles of methods that `method_title` may lack.
    """
    shown = [s for s in searches if not s.all_failed]
    if not shown:
        return None
    places = list(dict.fromkeys((s.model, s.task, s.budget, s.length, s.data) for s in shown))
    # Methods without a budget are drawn beside those of each one, where there is any.
    with_budget = {_apart_from_budget(p) for p in places if p[2] is not None}
    places = [p for p in places if p[2] is not None or _apart_from_budget(p) not in with_budget]
    look = styles(list(dict.fromkeys(s.method for s in shown)))
    figure, axes = panels([_head(p, places) for p in places], 3)
    lines: list[dict[str, Any]] = []
    for panel, (model, task, budget, length, data) in zip(axes, places, strict=True):
        before = len(lines)
        for s in shown:
            here = (s.model, s.task, s.length, s.data) == (model, task, length, data)
            if here and s.budget in (budget, None):
                lines += _draw(panel, s, look[s.method])
        rates = sorted({line["lr"] for line in lines[before:]})
        logarithmic(panel, rates, rates, label)
    titles(figure, "learning rate", "held-out score")
    legend(figure, axes, lambda method: named.get(method, method_title(method)))
    return figure, lines


def _apart_from_budget(place: _Place) -> tuple[str | None, ...]:
    model, task, _, length, data = place
    return model, task, length, data


def _head(place: _Place, places: Sequence[_Place]) -> str:
    """Returns the head of a panel: the task, and what else tells it from the other panels."""
    model, task, budget, length, data = place
    several = [len({*values} - {None}) > 1 for values in zip(*places, strict=True)]
    told = [(budget, several[2]), (model, several[0]), (length, several[3]), (data, several[4])]
    return ", ".join([TASKS[task].folder, *(name for name, there in told if name and there)])


def label(rate: float) -> str:
    """Returns a rate in two digits, as `1.4e-4`: short, to stand below a panel."""
    digits, _, power = f"{rate:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def _draw(panel: Any, s: Search, look: dict[str, Any]) -> list[dict[str, Any]]:
    """Draws one search; returns its numbers as lines of the figure's CSV."""
    rates = [lr for lr in sorted(s.scores) if not math.isinf(s.mean(lr))]
    means = [s.mean(lr) for lr in rates]
    panel.plot(rates, means, label=s.method, linewidth=1.2, markersize=3, **look)
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
    about = {"model": s.model, "task": s.task, "method": s.method, "budget": s.budget}
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
