"""One method with several settings beside each other, and what each setting does."""

from __future__ import annotations

import statistics
from itertools import combinations, product
from pathlib import Path
from typing import Any

from dora.analysis.stats import Estimate, average, holm
from dora.analysis.tables.differences import p_value
from dora.analysis.tables.layout import Grid, markdown
from dora.analysis.tables.scores import with_interval
from dora.analysis.view import View
from dora.records.finished import read_runs
from dora.records.identity import configuration

# The values of the settings that differ → the score of each seed.
Cells = dict[tuple[Any, ...], dict[int, float]]


def variants(folder: Path) -> str:
    """Returns the scores of one method's settings on one task, and the effect of each setting.

    Alpha stands as what it does: the scale of the update, alpha over the rank at the start.
    """
    runs = read_runs(folder)
    (task,) = {run["config"]["task"] for run in runs}
    methods = []
    for run in runs:
        method = configuration(run)["method"]
        del method["alpha"]
        methods.append({"scale": round(run["scale"], 2), **method})
    values = {name: sorted({method[name] for method in methods}) for name in methods[0]}
    varied = {name: its for name, its in values.items() if len(its) > 1}
    cells: Cells = {}
    for run, method in zip(runs, methods, strict=True):
        score = View().value(run, task)
        assert score is not None
        cells.setdefault(tuple(method[name] for name in varied), {})[run["seed"]] = score
    title = View().title(task)
    scores = Grid("", [*varied, title, "seeds"], [], text_columns=len(varied))
    for key, by_seed in sorted(cells.items()):
        spread = statistics.stdev(by_seed.values())
        mean = statistics.mean(by_seed.values())
        scores.rows.append([*map(str, key), f"{mean:.1f} ± {spread:.1f}", str(len(by_seed))])
    return f"{markdown(scores)}\n\n{markdown(_effects(cells, varied, title))}"


def _effects(cells: Cells, varied: dict[str, list[Any]], title: str) -> Grid:
    """Returns the differences between each setting's values, at each value of the first one.

    Effects may differ with it, as those of dropout may with the scale.
    """
    found: list[tuple[str, Estimate, int]] = []
    first = next(iter(varied))
    for at, name in enumerate(varied):
        for (low, high), given in product(
            combinations(varied[name], 2), varied[first] if at else [None]
        ):
            pairs = [
                (by_seed, cells[other])
                for key, by_seed in cells.items()
                if key[at] == low and given in (None, key[0])
                if (other := (*key[:at], high, *key[at + 1 :])) in cells
            ]
            # Cells share a seed's data order and draws: they are no independent samples.
            of_cells = [set(cell) for pair in pairs for cell in pair]
            seeds = sorted(set.intersection(*of_cells)) if of_cells else []
            if not seeds:
                continue
            by_seed = [statistics.mean(b[seed] - a[seed] for a, b in pairs) for seed in seeds]
            effect = average([by_seed])
            where = "" if given is None else f", {first} {given}"
            found.append((f"{name}: {high} less {low}{where}", effect, len(pairs)))
    p = [effect.p_value() for _, effect, _ in found]
    head = ["setting", f"{title} [95 %]", "p", "p (Holm)", "cells"]
    grid = Grid("", head, [], text_columns=1)
    for (name, effect, count), once, corrected in zip(found, p, holm(p), strict=True):
        line = [name, with_interval(effect, "+"), p_value(once), p_value(corrected)]
        grid.rows.append([*line, str(count)])
    grid.notes.append(
        "points, paired by seed: for each seed the average over cells that are equal in all else; p "
        "(Holm): corrected for the lines of this table"
    )
    return grid
