"""The table of searches: each candidate with its held-out score."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dora.analysis.rows import budget_in_words
from dora.analysis.searches import unequal
from dora.analysis.tables.layout import pipe_table
from dora.configuration.search_file import BySeed, Search, mean
from dora.records.about_method import NO_BUDGET


def table(searches: Sequence[Search]) -> list[str]:
    """Returns a Markdown table with a line for each search, and notes below it.

    The notes name the rates that lie at an edge and the tasks in which methods had unequal effort,
    and say how often the seeds agree on a rate.
    """
    keys = [s.key for s in searches]
    several = {
        "model": len({key.model for key in keys}) > 1,  # one value needs no column
        "length": len({key.length for key in keys}) > 1,
        "data": len({key.data for key in keys}) > 1,
        "budget": len({key.budget for key in keys} - {None}) > 1,
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
    if alike := [
        " ".join(_named(s, columns)) for s in searches if s.all_equal and not s.all_failed
    ]:
        lines += ["", f"every rate has the same score: {', '.join(alike)}"]
    several_seeds = [s for s in searches if len(s.seeds) > 1 and not s.all_failed]
    if several_seeds:
        sure, number = sum(s.agreed for s in several_seeds), len(several_seeds)
        rest = "; in the others more seeds may move the choice" if sure < number else ""
        lines += [
            "",
            f"in {sure} of {number} searches each seed by itself chooses the same rate{rest}",
        ]
    if odd := unequal(searches):
        lines += ["", f"unequal numbers of candidates or seeds in {', '.join(odd)}"]
    return lines


def _named(s: Search, columns: Sequence[str]) -> list[str]:
    budget = budget_in_words(s.key.budget or NO_BUDGET)
    whole = s.key._replace(budget=budget)
    return [getattr(whole, column) or "–" for column in columns]


def _cells(s: Search) -> list[str]:
    """Returns `0.002: 7.6` for each rate, the chosen one in bold, and marked if at an edge.

    Rates with the best score have their loss, if there are several: it chose among them. Then
    `dem 0.3: 7.8` for each value of the method's own setting; in bold if it is chosen.
    """
    cells = []
    equals = s.ties(s.lr)
    for lr in sorted(s.scores):
        text = f"{lr:g}: {_points(s.scores[lr])}"
        if lr in equals and len(equals) > 1 and not math.isinf(s.loss(lr)):
            text += f" (loss {s.loss(lr):.4f})"
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
