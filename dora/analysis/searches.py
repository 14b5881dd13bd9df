"""Searches: the runs of one, its table, and the figure of score against learning rate."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dora.analysis.layout import pipe_table
from dora.analysis.rows import budget_in_words, row_order
from dora.analysis.style import legend, logarithmic, panels, styles, titles
from dora.configuration import tuned
from dora.configuration.tuned import BySeed, Key, Search, Value, mean
from dora.data.tasks import TASKS
from dora.records import study
from dora.records.about_method import NO_BUDGET
from dora.records.schema import Run

if TYPE_CHECKING:
    from dora.analysis.score_figures import Drawn

# Of a panel: model, task, budget, length, data.
_Place = tuple[str, str, str | None, str | None, str | None]


def heldout(run: Run) -> float | None:
    """Returns a run's held-out score in points: the task's first metric at its best evaluation.

    It is None if undefined, as STS-B's where all predictions are equal after a rate far too high.
    """
    task = run["config"]["task"]
    score = run["results"]["best"].get(f"{TASKS[task].metrics[0]}_heldout")
    return None if score is None else 100 * float(score)


def of_runs(runs: Iterable[Run]) -> list[Search]:
    """Returns the searches that finished runs with select=heldout make, in the order of tables."""
    found: dict[Key, list[Run]] = defaultdict(list)
    for run in runs:
        c = run["config"]
        if c["select"] == "heldout":
            data, _, model, *_ = study.place(run["folder"])
            cell = (model, c["task"], c["method"]["name"], c["budget"])
            found[Key(*cell, tuned.length(c), data)].append(run)
    return in_order(_of_key(key, its) for key, its in found.items())


def _of_key(key: Key, runs: Sequence[Run]) -> Search:
    """Returns the search that the runs of one method on one task at one budget make."""
    setting, default = _setting(runs)
    scores: dict[float, dict[int, float | None]] = defaultdict(dict)
    values: dict[Value, dict[int, float | None]] = defaultdict(dict)
    for run in runs:
        value = run["config"]["method"].get(setting)
        place = scores[run["config"]["lr"]] if value == default else values[value]
        place[run["seed"]] = heldout(run)
    # A candidate that lacks a seed would be compared by other seeds than the rest.
    seeds = tuple(sorted({run["seed"] for run in runs}))
    return Search(
        *key.cell,
        seeds,
        {lr: tuple(by.get(seed) for seed in seeds) for lr, by in scores.items()},
        setting=setting,
        default=default,
        values={v: tuple(by.get(s) for s in seeds) for v, by in sorted(values.items())},
        length=key.length,
        data=key.data,
    )


def _setting(runs: Sequence[Run]) -> tuple[str | None, Any]:
    """Returns the setting of the method's own that differs among runs, and its default.

    The default is the value with most rates: the others were tried at the best rate alone.
    (None, None) if all runs have the same settings.
    """
    methods = [run["config"]["method"] for run in runs]
    for name in methods[0]:
        rates = defaultdict(set)
        for run in runs:
            rates[run["config"]["method"].get(name)].add(run["config"]["lr"])
        if len(rates) > 1:
            return name, max(rates, key=lambda value: len(rates[value]))
    return None, None


def in_order(searches: Iterable[Search]) -> list[Search]:
    """Returns the searches by model, then task, then the rows of tables."""
    tasks = list(TASKS)
    return sorted(
        searches,
        key=lambda s: (
            s.model,
            tasks.index(s.task),
            _in_numbers(s.length or ""),
            s.data or "",
            row_order((s.method, s.budget or NO_BUDGET)),
        ),
    )


def _in_numbers(length: str) -> tuple[int, str]:
    """Returns a key that sorts `600 steps` before `5400 steps`."""
    number, _, unit = length.partition(" ")
    return (int(number) if number.isdigit() else 0), unit


def unequal(searches: Iterable[Search]) -> list[str]:
    """Returns the tasks whose methods had unequal numbers of candidates or seeds."""
    effort = defaultdict(set)
    for s in searches:
        effort[s.model, s.task, s.length, s.data].add((s.candidates, len(s.seeds)))
    return sorted({task for (_, task, *_), kinds in effort.items() if len(kinds) > 1})


def table(searches: Sequence[Search]) -> list[str]:
    """Returns a Markdown table with a line for each search, and what a reader must know of them.

    Which rates lie at an edge, and in which tasks the methods had unequal effort.
    """
    several = {
        "model": len({s.model for s in searches}) > 1,  # one value needs no column
        "length": len({s.length for s in searches}) > 1,
        "data": len({s.data for s in searches} - {None}) > 1,
        "budget": len({s.budget for s in searches} - {None}) > 1,
    }
    known = ("model", "task", "length", "data", "method", "budget")
    columns = [c for c in known if several.get(c, True)]
    rows = [[*_named(s, columns), ", ".join(_cells(s))] for s in searches]
    edges = [" ".join(_named(s, columns)) for s in searches if s.at_edge]
    summary = f"{len(edges)} of {len(searches)} searches chose a rate at an edge of their grid"
    lines = [
        pipe_table([[*columns, "rate: held-out score"], *rows]),
        "",
        summary + (f": {', '.join(edges)}" if edges else ""),
    ]
    if odd := unequal(searches):
        lines += ["", f"unequal numbers of candidates or seeds in {', '.join(odd)}"]
    return lines


def _named(s: Search, columns: Sequence[str]) -> list[str]:
    budget = budget_in_words((s.method, s.budget or NO_BUDGET))
    whole = {
        "model": s.model,
        "task": s.task,
        "length": s.length or "–",
        "data": s.data or "–",
        "method": s.method,
        "budget": budget,
    }
    return [whole[column] for column in columns]


def _cells(s: Search) -> list[str]:
    """Returns `0.002: 7.6` for each rate, the chosen one in bold, and marked if at an edge.

    Then `dem 0.3: 7.8` for each value of the method's own setting; in bold if it is chosen.
    """
    cells = []
    for lr in sorted(s.scores):
        text = f"{lr:g}: {_points(s.scores[lr])}"
        if lr == s.lr:
            text = f"**{text}**" + (" (edge)" if s.at_edge else "")
        cells.append(text)
    for value, by_seed in s.values.items():
        text = f"{s.setting} {value}: {_points(by_seed)}"
        cells.append(f"**{text}**" if value == s.value else text)
    return cells


def _points(by_seed: BySeed) -> str:
    """Returns a candidate's mean score, or a dash if one of its runs has none."""
    score = mean(by_seed)
    return "–" if math.isinf(score) else f"{score:.1f}"


def score_by_rate(searches: Sequence[Search]) -> Drawn | None:
    """Draws held-out scores against the learning rate, a line for each method.

    A panel for each task and budget. Dots are seeds; the chosen rate has a ring. Crosses are other
    values of a setting of the method's own.
    """
    shown = [s for s in searches if not s.all_failed]
    if not shown:
        return None
    places = list(dict.fromkeys((s.model, s.task, s.budget, s.length, s.data) for s in shown))
    # Methods without a budget are drawn beside those of each one.
    with_budget = [p for p in places if p[2] is not None] or places
    look = styles(list(dict.fromkeys(s.method for s in shown)))
    figure, axes = panels([_head(p, with_budget) for p in with_budget], 3)
    lines: list[dict[str, Any]] = []
    for panel, (model, task, budget, length, data) in zip(axes, with_budget, strict=True):
        before = len(lines)
        for s in shown:
            here = (s.model, s.task, s.length, s.data) == (model, task, length, data)
            if here and s.budget in (budget, None):
                lines += _draw(panel, s, look[s.method])
        rates = sorted({line["lr"] for line in lines[before:]})
        logarithmic(panel, rates, rates, label)
    titles(figure, "learning rate", "held-out score")
    legend(figure, axes)
    return figure, lines


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
