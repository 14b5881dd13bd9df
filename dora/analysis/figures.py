"""`python -m dora.plots`: what tables cannot show, as figures: PDF, PNG and the numbers drawn as CSV.

One function a figure; each takes a table and returns a figure and its numbers, None where there is nothing to draw.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dora.analysis.comparison import differences
from dora.analysis.grouping import BASELINE, Row, Table, View, budget_in_words, left_out
from dora.analysis.stats import average
from dora.analysis.style import COLOURS, images, legend, panels, style, titles
from dora.analysis.text import as_csv
from dora.backbones.architectures import KINDS, place
from dora.data.tasks import TASKS
from dora.files import open_own, write_atomic
from dora.records import artefacts, journals
from dora.records.schema import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
Lines = list[dict[str, Any]]
Drawn = tuple["Figure", Lines]
_MOST_NOTED = 2**20  # bytes of the file that names a table's figures


def methods(table: Table, without: tuple[str, ...] = ()) -> list[str]:
    """The methods in the order of the table's rows."""
    return [m for m in dict.fromkeys(row[0] for row in table.rows) if m not in without]


def score_by_budget(table: Table) -> Drawn | None:
    """Score against adapter parameters: mean over seeds with its 95 % interval; full fine-tuning is a line across."""
    columns = [(table.view.title(t), [t]) for t in table.averaged]
    if len(columns) > 1:
        columns.append(("average", table.averaged))
    lines: Lines = []
    for title, tasks in columns:
        for row in table.rows:
            groups = [list(table.values(row, t).values()) for t in tasks]
            if groups and all(groups):
                estimate = average(groups)
                low, high = estimate.interval()
                ends = [
                    run["params"]["adapter_end"] for t in tasks for run in table.runs_of(row, t)
                ]
                lines.append(
                    {
                        "score": title,
                        "method": row[0],
                        "budget": row[1],
                        "adapter_params": statistics.mean(ends),
                        "mean": estimate.mean,
                        "low": low,
                        "high": high,
                    }
                )
    sizes = [line["adapter_params"] for line in lines if line["method"] != "full"]
    if not sizes:
        return None
    ticks = sorted(
        {round(line["adapter_params"]) for line in lines if line["method"] == BASELINE}
    ) or [max(sizes)]
    figure, axes = panels(len(columns))
    for panel, (title, _) in zip(axes, columns, strict=True):
        of_panel = [line for line in lines if line["score"] == title]
        for i, method in enumerate(methods(table)):
            points = [line for line in of_panel if line["method"] == method]
            means = [p["mean"] for p in points]
            if method == "full":
                for p in points:
                    panel.axhline(
                        p["mean"], color=style("full")["color"], linestyle="--", label="full"
                    )
                    if not math.isnan(p["low"]):
                        panel.axhspan(
                            p["low"],
                            p["high"],
                            color=style("full")["color"],
                            alpha=0.15,
                            linewidth=0,
                        )
                continue
            error = [
                [p["mean"] - p["low"] for p in points],
                [p["high"] - p["mean"] for p in points],
            ]
            aside = 1 + 0.03 * (i - 1)  # so that the bars of one budget don't cover each other
            panel.errorbar(
                [p["adapter_params"] * aside for p in points],
                means,
                yerr=error,
                capsize=2,
                markersize=4,
                linewidth=1,
                label=method,
                **style(method),
            )
        panel.set_xscale("log")
        panel.set_xlim(0.85 * min(sizes), 1.2 * max(sizes))  # also where a task has no adapters yet
        panel.set_xticks(ticks, [_short(size) for size in ticks])
        panel.minorticks_off()
        panel.set_title(title, fontsize=9)
    titles(figure, "adapter parameters", f"{table.view.score} score")
    legend(figure, axes)
    return figure, lines


def _short(number: float) -> str:
    return f"{number / 1e6:.3g}M" if number >= 1e6 else f"{number / 1e3:.3g}k"


def adaptive(table: Table) -> list[Row]:
    """The rows whose runs end with ranks that were found while training."""
    return [row for row in table.rows if any(_adapted(run) for run in table.runs_of(row))]


def _adapted(run: Run) -> bool:
    return run["ranks"].get("start") != run["ranks"]["end"]


def final_ranks(table: Table) -> Drawn | None:
    """Ranks at the end as a heat map, layer by kind of matrix: the mean over seeds, coloured by its share of the start's.

    A panel for each task, the methods and budgets beside each other in it.
    """
    rows, tasks = adaptive(table), [*table.averaged, *table.apart]
    if not rows:
        return None
    lines: Lines = []
    for task, row in product(tasks, rows):
        found: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
        for run in table.runs_of(row, task):
            for name, rank in run["ranks"]["end"].items():
                found[place(name)].append((rank, run["ranks"]["start"][name]))
        lines += [
            {
                "task": task,
                "method": row[0],
                "budget": row[1],
                "layer": layer,
                "matrix": kind,
                "rank": statistics.fmean(end for end, _ in ranks),
                "share": sum(end for end, _ in ranks) / max(1, sum(start for _, start in ranks)),
                "seeds": len(ranks),
            }
            for (layer, kind), ranks in sorted(found.items())
        ]
    layers = sorted({line["layer"] for line in lines})
    kinds = [kind for kind in KINDS if any(line["matrix"] == kind for line in lines)]
    # One image a task, with an empty column between two rows of the table: a panel of its own for each costs seconds.
    at = {
        (*row, kind): i * (len(kinds) + 1) + j
        for i, row in enumerate(rows)
        for j, kind in enumerate(kinds)
    }
    figure, axes = panels(
        len(tasks), 1, width=1.5 * len(rows), height=0.13 * len(layers) + 0.1, right=0.7, gap=0.1
    )
    for panel, task in zip(axes, tasks, strict=True):
        shares = np.full((len(layers), max(at.values()) + 1), np.nan)
        for line in (line for line in lines if line["task"] == task):
            x, y = at[line["method"], line["budget"], line["matrix"]], layers.index(line["layer"])
            shares[y, x] = line["share"]
            if len(layers) <= 6:
                panel.text(
                    x,
                    y,
                    f"{line['rank']:.1f}",
                    fontsize=6,
                    ha="center",
                    va="center",
                    color="white" if line["share"] < 0.6 else "black",
                )
        image = panel.imshow(shares, vmin=0, vmax=1, cmap="cividis", aspect="auto", origin="lower")
        panel.set_xticks([])
        every = 1 if len(layers) <= 6 else 3
        panel.set_yticks(
            range(0, len(layers), every), [str(layer) for layer in layers[::every]], fontsize=6
        )
        panel.set_ylabel(f"{TASKS[task].folder}\nlayer", fontsize=8)
        for row in rows:
            centre = at[row[0], row[1], kinds[0]] + (len(kinds) - 1) / 2
            panel.text(
                centre,
                len(layers) - 0.3,
                f"{row[0]} {budget_in_words(row)}",
                ha="center",
                va="bottom",
                fontsize=8,
            )
    axes[-1].set_xticks(list(at.values()), [key[-1] for key in at], fontsize=6)
    wide = figure.get_figwidth()
    bar = figure.colorbar(image, cax=figure.add_axes(((wide - 0.55) / wide, 0.3, 0.12 / wide, 0.4)))
    bar.set_ticks([0, 0.5, 1])
    bar.ax.tick_params(labelsize=7)
    # Below the panels: beside the bar a figure of one task is too low for it.
    titles(figure, "colour: share of the start's components")
    return figure, lines


def rank_paths(table: Table) -> Drawn | None:
    """Live components over training by kind of matrix, mean over seeds and layers, each method at its largest budget."""
    rows = {row[0]: row for row in adaptive(table)}
    ranks: dict[tuple[str, str, str, int], list[float]] = defaultdict(list)
    for task, (method, row) in product(table.averaged, rows.items()):
        for run in table.runs_of(row, task):
            for step, found in _known(run, "ranks.jsonl", journals.ranks(run["folder"])):
                for (_, kind), rank in found.items():
                    ranks[task, method, kind, step].append(rank)
    lines = [
        {
            "task": task,
            "method": method,
            "budget": rows[method][1],
            "matrix": kind,
            "step": step,
            "rank": statistics.fmean(live),
        }
        for (task, method, kind, step), live in sorted(ranks.items())
    ]
    shown = [
        (t, m) for t, m in product(table.averaged, rows) if any((t, m) == key[:2] for key in ranks)
    ]
    if not shown:
        return None
    figure, axes = panels(len(shown), 2 * len(rows), same_y=True)
    for panel, (task, method) in zip(axes, shown, strict=True):
        for i, kind in enumerate(KINDS):
            path = sorted(
                (step, statistics.fmean(live))
                for (*key, step), live in ranks.items()
                if key == [task, method, kind]
            )
            if path:
                panel.plot(
                    [s for s, _ in path],
                    [r for _, r in path],
                    color=COLOURS[i],
                    linewidth=1.2,
                    label=kind,
                    linestyle=("-", "--", ":", "-.", "-", "--")[i],
                )
        panel.set_title(
            f"{TASKS[task].folder}, {method} {budget_in_words(rows[method])}", fontsize=8
        )
    titles(figure, "step", "live components a matrix")
    legend(figure, axes)
    return figure, lines


def _known(run: Run, name: str, lines: Iterable[T]) -> Iterator[T]:
    """What is read of a run's journal, up to the first line that is damaged, which is said.

    Nothing where its record has checksums and the journal is another.
    """
    if (problem := artefacts.changed(run["folder"], run, name)) is not None:
        left_out(run["folder"] / name, problem)
        return
    try:
        yield from lines
    except (OSError, ValueError) as e:
        left_out(run["folder"] / name, f"from a damaged line on: {e}")


def learning_curves(table: Table) -> Drawn | None:
    """Development score over training, mean over seeds and from lowest to highest, each method at its largest budget."""
    rows = {row[0]: row for row in table.rows}
    scores: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for task, (method, row) in product(table.averaged, rows.items()):
        metric = TASKS[task].metrics[0]
        for run in table.runs_of(row, task):
            for step, score in _known(run, "metrics.jsonl", journals.scores(run["folder"], metric)):
                scores[task, method, step].append(100 * score)
    lines = [
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
    figure, axes = panels(len(tasks))
    for panel, task in zip(axes, tasks, strict=True):
        for method in methods(table):
            curve = sorted(
                (step, found) for (*key, step), found in scores.items() if key == [task, method]
            )
            if curve:
                steps = [step for step, _ in curve]
                panel.plot(
                    steps,
                    [statistics.fmean(found) for _, found in curve],
                    markersize=3,
                    linewidth=1,
                    label=method,
                    **style(method),
                )
                panel.fill_between(
                    steps,
                    [min(found) for _, found in curve],
                    [max(found) for _, found in curve],
                    color=style(method)["color"],
                    alpha=0.12,
                    linewidth=0,
                )
        panel.set_title(View().title(task), fontsize=8)
    titles(figure, "step", "development score")
    legend(figure, axes)
    return figure, lines


def paired_differences(table: Table) -> Drawn | None:
    """Each method less LoRA at the same budget with its 95 % interval, task by task and averaged."""
    averages = differences(table) if len(table.averaged) > 1 else []
    found = [*differences(table, by_task=True), *averages]
    if not found:
        return None
    names: dict[str | None, str] = {
        None: "average",
        **{task: table.view.title(task) for task in table.tasks},
    }
    lines: Lines = []
    for d in found:
        low, high = d.estimate.interval()
        lines.append(
            {
                "method": d.row[0],
                "budget": d.row[1],
                "score": names[d.task],
                "mean": d.estimate.mean,
                "low": low,
                "high": high,
                "p_holm": d.p,
            }
        )
    scores = [
        names[t]
        for t in [*table.averaged, None, *table.apart]
        if any(line["score"] == names[t] for line in lines)
    ]
    budgets = list(dict.fromkeys(line["budget"] for line in lines))
    figure, axes = panels(len(budgets), width=2.4, height=0.32 * len(scores), left=1.0, same_y=True)
    shown = methods(table, without=("full", BASELINE))
    for panel, budget in zip(axes, budgets, strict=True):
        panel.axvline(0, color="0.6", linewidth=0.8)
        for i, method in enumerate(shown):
            points = [
                line for line in lines if (line["method"], line["budget"]) == (method, budget)
            ]
            heights = [scores.index(p["score"]) + 0.25 * (i - (len(shown) - 1) / 2) for p in points]
            error = [
                [p["mean"] - p["low"] for p in points],
                [p["high"] - p["mean"] for p in points],
            ]
            panel.errorbar(
                [p["mean"] for p in points],
                heights,
                xerr=error,
                linestyle="none",
                capsize=2,
                markersize=4,
                linewidth=1,
                label=method,
                **style(method),
            )
        panel.set_title(f"budget {budget_in_words((BASELINE, budget))}", fontsize=8)
        panel.set_yticks(range(len(scores)), scores)
        panel.set_ylim(len(scores) - 0.5, -0.5)
    titles(figure, f"points more than {BASELINE}, 95 % interval over seeds (each by itself)")
    legend(figure, axes)
    return figure, lines


FIGURES: dict[str, Callable[[Table], Drawn | None]] = {
    "score-by-budget": score_by_budget,
    "differences": paired_differences,
    "final-ranks": final_ranks,
    "rank-paths": rank_paths,
    "learning-curves": learning_curves,
}


def write(table: Table, folder: Path) -> list[str]:
    """All figures of a table into `folder`; the names of those that there was something to draw for."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for name, draw in FIGURES.items():
        if (drawn := draw(table)) is not None:
            names.append(f"{table.name}-{name}")
            for kind, data in images(drawn[0]).items():
                write_atomic(folder / f"{names[-1]}.{kind}", data)
            write_atomic(folder / f"{names[-1]}.csv", as_csv(drawn[1]))
    write_atomic(
        folder / f"{table.name}.json", json.dumps({"drawn_from": _state(table), "figures": names})
    )
    return names


def written(table: Table, folder: Path) -> list[str]:
    """The names of the table's figures in `folder`, drawn now unless they are there, from these very runs."""
    try:
        with open_own(folder, f"{table.name}.json", _MOST_NOTED) as file:
            known = json.load(file)
        names, same = known["figures"], known["drawn_from"] == _state(table)
        ours = isinstance(names, list) and set(names) <= {
            f"{table.name}-{name}" for name in FIGURES
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return write(table, folder)
    files = (
        [folder / f"{name}.{kind}" for name in names for kind in ("png", "pdf", "csv")]
        if ours
        else []
    )
    there = all(file.is_file() and not file.is_symlink() for file in files)
    return names if same and ours and there else write(table, folder)


def _state(table: Table) -> str:
    """A hash of which runs the table holds, as they lie on the disk."""
    paths = sorted(run["folder"] / "run.json" for run in table.runs)
    stamps = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()
