"""Searches of learning rates: the runs of one, its table, and the figure of score against rate."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dora.analysis.layout import pipe_table
from dora.analysis.rows import budget_in_words, row_order
from dora.analysis.style import legend, panels, styles, titles
from dora.data.tasks import TASKS
from dora.records.about_method import NO_BUDGET
from dora.records.schema import Run
from dora.tuned import Key, Search

if TYPE_CHECKING:
    from dora.analysis.score_figures import Drawn

_MOST_TICKS = 5  # labels of rates that fit below a panel


def heldout(run: Run) -> float | None:
    """Returns a run's held-out score in points: the task's first metric at its best evaluation.

    None if it is undefined, as STS-B's where all predictions are equal after a rate far too high.
    """
    task = run["config"]["task"]
    score = run["results"]["best"].get(f"{TASKS[task].metrics[0]}_heldout")
    return None if score is None else 100 * float(score)


def of_runs(runs: Iterable[Run]) -> list[Search]:
    """Returns the searches that finished runs with select=heldout make, in the order of tables."""
    found: dict[Key, dict[float, dict[int, float | None]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        c = run["config"]
        if c["select"] == "heldout":
            key = (run["folder"].parts[-5], c["task"], c["method"]["name"], c["budget"])
            found[key][c["lr"]][run["seed"]] = heldout(run)
    searches = []
    for (model, task, method, budget), by_rate in found.items():
        # A rate that lacks a seed would be compared by other seeds than the rest.
        seeds = tuple(sorted(set.union(*(set(by_seed) for by_seed in by_rate.values()))))
        scores = {lr: tuple(by.get(seed) for seed in seeds) for lr, by in by_rate.items()}
        searches.append(Search(model, task, method, budget, seeds, scores))
    return in_order(searches)


def in_order(searches: Iterable[Search]) -> list[Search]:
    """Returns the searches by model, then task, then the rows of tables."""
    tasks = list(TASKS)
    return sorted(
        searches,
        key=lambda s: (s.model, tasks.index(s.task), row_order((s.method, s.budget or NO_BUDGET))),
    )


def unequal(searches: Iterable[Search]) -> list[str]:
    """Returns the tasks whose methods had unequal numbers of rates or seeds to choose from."""
    effort = defaultdict(set)
    for s in searches:
        effort[s.model, s.task].add((len(s.scores), len(s.seeds)))
    return sorted({task for (_, task), kinds in effort.items() if len(kinds) > 1})


def table(searches: Sequence[Search]) -> list[str]:
    """Returns a Markdown table with a line for each search, and what a reader must know of them.

    Which rates lie at an edge, and in which tasks the methods had unequal effort.
    """
    several = {
        "model": len({s.model for s in searches}) > 1,  # one value needs no column
        "budget": len({s.budget for s in searches} - {None}) > 1,
    }
    columns = [c for c in ("model", "task", "method", "budget") if several.get(c, True)]
    rows = [[*_named(s, columns), ", ".join(_cells(s))] for s in searches]
    edges = [" ".join(_named(s, columns)) for s in searches if s.at_edge]
    summary = f"{len(edges)} of {len(searches)} searches chose a rate at an edge of their grid"
    lines = [
        pipe_table([[*columns, "rate: held-out score"], *rows]),
        "",
        summary + (f": {', '.join(edges)}" if edges else ""),
    ]
    if odd := unequal(searches):
        lines += ["", f"unequal numbers of rates or seeds in {', '.join(odd)}"]
    return lines


def _named(s: Search, columns: Sequence[str]) -> list[str]:
    budget = budget_in_words((s.method, s.budget or NO_BUDGET))
    whole = {"model": s.model, "task": s.task, "method": s.method, "budget": budget}
    return [whole[column] for column in columns]


def _cells(s: Search) -> list[str]:
    """Returns `0.002: 7.6` for each rate, the chosen one in bold, and marked if at an edge."""
    cells = []
    for lr in sorted(s.scores):
        mean = s.mean(lr)
        text = f"{lr:g}: " + ("–" if math.isinf(mean) else f"{mean:.1f}")
        if lr == s.lr:
            text = f"**{text}**" + (" (edge)" if s.at_edge else "")
        cells.append(text)
    return cells


def score_by_rate(searches: Sequence[Search]) -> Drawn | None:
    """Draws held-out scores against the learning rate, a line for each method.

    A panel for each task and budget. Dots are seeds; the chosen rate has a ring.
    """
    shown = [s for s in searches if not s.all_failed]
    if not shown:
        return None
    places = list(dict.fromkeys((s.model, s.task, s.budget) for s in shown))
    # Methods without a budget are drawn beside those of each one.
    with_budget = [p for p in places if p[2] is not None] or places
    look = styles(list(dict.fromkeys(s.method for s in shown)))
    figure, axes = panels(len(with_budget), 3)
    lines: list[dict[str, Any]] = []
    for panel, (model, task, budget) in zip(axes, with_budget, strict=True):
        before = len(lines)
        for s in shown:
            if (s.model, s.task) == (model, task) and s.budget in (budget, None):
                lines += _draw(panel, s, look[s.method])
        panel.set_xscale("log")
        rates = sorted({line["lr"] for line in lines[before:]})
        ticks = apart(rates)
        panel.set_xticks(ticks, list(map(label, ticks)))
        panel.minorticks_off()
        name = [TASKS[task].folder]
        name += [budget] if budget and len({p[2] for p in with_budget}) > 1 else []
        name += [model] if len({p[0] for p in with_budget}) > 1 else []
        panel.set_title(", ".join(name), fontsize=8)
    titles(figure, "learning rate", "held-out score")
    legend(figure, axes)
    return figure, lines


def apart(rates: Sequence[float]) -> list[float]:
    """Returns those of ascending rates whose labels do not touch on a logarithmic axis."""
    found = list(rates[:1])
    for rate in rates[1:]:
        if math.log(rate / found[-1]) >= math.log(rates[-1] / rates[0]) / _MOST_TICKS:
            found.append(rate)
    return found


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
    if s.lr in rates:
        ring = {"marker": "o", "markersize": 8, "markerfacecolor": "none", "linestyle": ""}
        panel.plot([s.lr], [s.mean(s.lr)], color=look["color"], **ring)
    about = {"model": s.model, "task": s.task, "method": s.method, "budget": s.budget}
    return [
        {**about, "lr": lr, "mean": mean, "chosen": lr == s.lr}
        for lr, mean in zip(rates, means, strict=True)
    ]
