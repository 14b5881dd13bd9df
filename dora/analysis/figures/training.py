"""Figures of training: ranks at the end, ranks on the way there, development scores.

Each function takes a table and returns a figure and the numbers drawn, or None where there is
nothing to draw.
"""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections import defaultdict
from itertools import product
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from dora.analysis.figures.points import Drawn, Lines, end_at_100, row_of
from dora.analysis.figures.style import COLOURS, in_print, legend, panels, styles, titles
from dora.analysis.rows import budget_in_words
from dora.analysis.run_journals import curve, places, rank_path
from dora.analysis.table import Table
from dora.analysis.view import View
from dora.backbones.architectures import KINDS
from dora.data.tasks import TASKS
from dora.records.about_method import ranks_of
from dora.records.place import Row
from dora.records.schema import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# (method, budget, kind of matrix) → its column in the image of a task's ranks.
Columns = dict[tuple[str, str, str], int]
# Up to here the ranks are legible as numbers in the image, and every layer has a label.
_FEW_LAYERS = 6
_COLOUR = "colour: share of the largest rank at start or end"  # one line below a single panel
_LINES = ("-", "--", ":", "-.", "-", "--", ":", "-.")  # one for each of KINDS


def adaptive(table: Table) -> list[Row]:
    """Returns the rows whose runs end with ranks that training found."""
    return [
        row
        for row in table.rows
        if any(_adapted(run, table.view.score) for run in table.runs_of(row))
    ]


def _adapted(run: Run, score: str) -> bool:
    return bool(places(run)) and run["ranks"].get("start") != ranks_of(run, score)


def final_ranks(table: Table) -> Drawn | None:
    """Draws ranks at the end as a heat map, layer by kind of matrix: means over seeds.

    The colour is the share of the largest rank that a matrix of the row has at the start or the
    end. A panel for each task, the methods and budgets beside each other in it.
    """
    rows, tasks = adaptive(table), table.tasks
    if not rows:
        return None
    lines = [line for task, row in product(tasks, rows) for line in _ranks(table, row, task)]
    layers = sorted({line["layer"] for line in lines})
    kinds = [kind for kind in KINDS if any(line["matrix"] == kind for line in lines)]
    if in_print():
        return _ranks_in_print(table, lines, layers, kinds), lines
    # One image a task, with an empty column between two rows of the table: a panel of its own for
    # each row costs seconds.
    columns: Columns = {
        (*row, kind): i * (len(kinds) + 1) + j
        for i, row in enumerate(rows)
        for j, kind in enumerate(kinds)
    }
    height = 0.13 * len(layers) + 0.1
    figure, axes = panels([""] * len(tasks), 1, 1.5 * len(rows), height, left=0.65, right=0.7)
    for panel, task in zip(axes, tasks, strict=True):
        _image(panel, [line for line in lines if line["task"] == task], layers, columns)
        panel.set_ylabel(f"{TASKS[task].folder}\nlayer", fontsize=8)
        for row in rows:
            centre = columns[row.method, row.budget, kinds[0]] + (len(kinds) - 1) / 2
            name = table.row_title(row)
            panel.text(centre, len(layers) - 0.3, name, ha="center", va="bottom", fontsize=8)
    axes[-1].set_xticks(list(columns.values()), [key[-1] for key in columns], fontsize=6)
    _colour_bar(figure, axes[-1])
    # Below the panels: beside the bar a figure of one task is too low for it.
    titles(figure, _COLOUR)
    return figure, lines


def _ranks_in_print(table: Table, lines: Lines, layers: list[int], kinds: list[str]) -> Figure:
    """Draws a panel for each cell that has runs: together they are too wide for a page."""
    height = 0.13 * len(layers) + 0.1
    cells = list(dict.fromkeys((line["task"], row_of(line)) for line in lines))
    heads = [f"{TASKS[task].folder}, {table.row_title(row)}" for task, row in cells]
    # Narrower ones have no room for the ranks as numbers.
    figure, axes = panels(heads, 4, 1.5, height, right=0.7, gap=0.25, narrowest=1.3)
    for panel, (task, row) in zip(axes, cells, strict=True):
        columns: Columns = {(*row, kind): i for i, kind in enumerate(kinds)}
        here = [line for line in lines if (line["task"], row_of(line)) == (task, row)]
        _image(panel, here, layers, columns)
        panel.set_xticks(list(columns.values()), kinds, fontsize=6)
    _colour_bar(figure, axes[-1])
    titles(figure, _COLOUR, "layer")
    return figure


def _ranks(table: Table, row: Row, task: str) -> Lines:
    """Returns a cell's mean rank at the end for each layer and kind of matrix.

    Its share is of the largest mean rank that any of them has at the start or the end: a method may
    shrink them all, or let them grow from nothing.
    """
    found: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
    for run in table.runs_of(row, task):
        start, end = run["ranks"]["start"], ranks_of(run, table.view.score)
        for name, where in places(run).items():
            found[where].append((start[name], end[name]))
    means = {
        where: tuple(map(statistics.fmean, zip(*ranks, strict=True)))
        for where, ranks in found.items()
    }
    most = max((rank for both in means.values() for rank in both), default=0) or 1
    return [
        {
            "task": task,
            "method": row.method,
            "budget": row.budget,
            "layer": layer,
            "matrix": kind,
            "rank": end,
            "share": end / most,
            "seeds": len(found[layer, kind]),
        }
        for (layer, kind), (_, end) in sorted(means.items())
    ]


def _image(panel: Axes, lines: Lines, layers: list[int], columns: Columns) -> None:
    """Draws a task's ranks: a row a layer, a column a kind of matrix of each method and budget."""
    few = len(layers) <= _FEW_LAYERS
    shares = np.full((len(layers), max(columns.values()) + 1), np.nan)
    for line in lines:
        x = columns[line["method"], line["budget"], line["matrix"]]
        y = layers.index(line["layer"])
        shares[y, x] = line["share"]
        if few:
            text = f"{round(line['rank'], 1):g}"
            colour = "white" if line["share"] < 0.6 else "black"
            panel.text(x, y, text, fontsize=6, ha="center", va="center", color=colour)
    panel.imshow(shares, vmin=0, vmax=1, cmap="cividis", aspect="auto", origin="lower")
    panel.set_xticks([])
    every = 1 if few else 3
    ticks = range(0, len(layers), every)
    panel.set_yticks(ticks, [str(layer) for layer in layers[::every]], fontsize=6)


def _colour_bar(figure: Figure, panel: Axes) -> None:
    """Draws the scale of the panels' colours in the margin on their right."""
    wide = figure.get_figwidth()
    beside = figure.add_axes(((wide - 0.55) / wide, 0.3, 0.12 / wide, 0.4))
    bar = figure.colorbar(panel.images[0], cax=beside)
    bar.set_ticks([0, 0.5, 1])
    bar.ax.tick_params(labelsize=7)


def rank_paths(table: Table) -> Drawn | None:
    """Draws live components over training by kind of matrix: means over seeds and layers.

    Each method at its largest budget.
    """
    # Rows are sorted by budget, so the last one of a method is its largest.
    rows = {row.method: row for row in adaptive(table)}
    ranks: dict[tuple[str, str, str, int], list[float]] = defaultdict(list)
    for task, (method, row) in product(table.averaged, rows.items()):
        runs = list(filter(None, map(rank_path, table.runs_of(row, task))))
        for step in {step for changes in runs for step, _ in changes}:
            for changes in runs:
                # Ranks stay until they change, and as they are where `patience` ended the run.
                _, found = changes[bisect_right(changes, step, key=itemgetter(0)) - 1]
                for (_, kind), rank in found.items():
                    ranks[task, method, kind, step].append(rank)
    lines: Lines = [
        {
            "task": task,
            "method": method,
            "budget": rows[method][1],
            "matrix": kind,
            "step": step,
            "rank": statistics.fmean(live),
            "matrices": len(live),
        }
        for (task, method, kind, step), live in sorted(ranks.items())
    ]
    drawn = {key[:2] for key in ranks}
    shown = [pair for pair in product(table.averaged, rows) if pair in drawn]
    if not shown:
        return None
    heads = [
        f"{TASKS[task].folder}, {table.title(method)} {budget_in_words(rows[method].budget)}"
        for task, method in shown
    ]
    figure, axes = panels(heads, 2 * len(rows), same_y=True)
    for panel, (task, method) in zip(axes, shown, strict=True):
        of_panel = [p for p in lines if (p["task"], p["method"]) == (task, method)]
        for i, kind in enumerate(KINDS):
            path = [p for p in of_panel if p["matrix"] == kind]
            if path:
                panel.plot(
                    [p["step"] for p in path],
                    [p["rank"] for p in path],
                    color=COLOURS[i],
                    linewidth=1.2,
                    label=kind,
                    linestyle=_LINES[i],
                    drawstyle="steps-post",  # ranks stay until they change
                )
    titles(figure, "step", "live components a matrix")
    legend(figure, axes)
    return figure, lines


def learning_curves(table: Table) -> Drawn | None:
    """Draws development scores over training: means over seeds, from the lowest to the highest.

    Each method at its largest budget.
    """
    # As in rank_paths, the last row of a method has its largest budget.
    rows = {row.method: row for row in table.rows}
    scores: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for task, (method, row) in product(table.averaged, rows.items()):
        metric = TASKS[task].metrics[0]
        for run in table.runs_of(row, task):
            for step, score in curve(run, "dev", metric):
                scores[task, method, step].append(100 * score)
    lines: Lines = [
        {
            "task": task,
            "method": method,
            "budget": rows[method][1],
            "step": step,
            "mean": statistics.fmean(found),
            "lowest": min(found),
            "highest": max(found),
            "seeds": len(found),
        }
        for (task, method, step), found in sorted(scores.items())
    ]
    tasks = [t for t in table.averaged if any(t == task for task, _, _ in scores)]
    if not tasks:
        return None
    look = styles(table.methods)
    # A journal holds a task's first metric alone, whatever the view shows elsewhere.
    figure, axes = panels([View().title(task) for task in tasks])
    for panel, task in zip(axes, tasks, strict=True):
        for method in table.methods:
            drawn = [p for p in lines if (p["task"], p["method"]) == (task, method)]
            _curve(panel, drawn, method, look[method])
        end_at_100(panel)
    titles(figure, "step", "development score")
    legend(figure, axes, table.title)
    return figure, lines


def _curve(panel: Axes, curve: Lines, method: str, look: dict[str, Any]) -> None:
    """Draws a method's mean score as a line, its lowest and highest as a band."""
    if not curve:
        return
    steps = [p["step"] for p in curve]
    means = [p["mean"] for p in curve]
    lowest, highest = ([p[end] for p in curve] for end in ("lowest", "highest"))
    panel.plot(steps, means, markersize=3, linewidth=1, label=method, **look)
    panel.fill_between(steps, lowest, highest, color=look["color"], alpha=0.12, linewidth=0)
