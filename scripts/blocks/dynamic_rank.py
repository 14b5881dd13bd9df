"""AdaLoRA and DoRA less LoRA, over the models and lengths of several studies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from dora.analysis.comparison import ALPHA, Difference, differences
from dora.analysis.grouping import tables
from dora.analysis.names import model_title
from dora.analysis.stats import Estimate, average, holm
from dora.analysis.table import Table
from dora.analysis.tables.differences import DETECTABLE, p_value, points
from dora.analysis.tables.layout import Grid, markdown
from dora.analysis.tables.scores import with_interval
from dora.analysis.view import View
from dora.plain import number_range
from dora.records.finished import read_runs
from dora.records.place import Row

PRUNING = ("adalora", "dora")
TITLES = {"lora": "LoRA", "adalora": "AdaLoRA − LoRA", "dora": "DoRA − LoRA"}


def pruned(folders: Path) -> str:
    """Returns the methods that prune, each less LoRA, for every model, length and task.

    p is corrected for the comparisons of each model and length, once for its tasks and once for
    their average.
    """
    grid = _compared(folders, ("p (Holm)", DETECTABLE))
    grid.notes += [
        "points, paired by seed; p (Holm) is corrected for the comparisons at a model and length, once "
        "for the tasks and once for their average, intervals are not; bold: p < 0.05",
        f"{DETECTABLE}: a true difference of this size would reach p < 0.05 at Holm's first step in "
        "four of five studies with as many seeds and this spread",
        "scores: the best of a run's development evaluations in its second half; average: over unlike "
        "metrics, with tasks taken as independent",
    ]
    return markdown(grid)


def verdict(folders: Path) -> str:
    """Returns the lines of `pruned` without p and power."""
    return markdown(_compared(folders, ()))


def _compared(folders: Path, more: tuple[str, ...]) -> Grid:
    """Returns the lines of all `folders`; `more`: further columns behind each difference."""
    view = View(by_length=True, methods=("lora", *PRUNING))
    head = ["model", "steps", "score", "LoRA"]
    for method in PRUNING:
        head += [f"{TITLES[method]} [95 %]", *more]
    grid = Grid("", [*head, "seeds"], [], text_columns=3)
    for name in folders.name.split(","):
        for compared in tables(read_runs(folders.with_name(name)), view):
            _compare(compared, grid, bool(more))
    return grid


def _compare(table: Table, grid: Grid, whole: bool) -> None:
    """Adds a table's lines: the average over its tasks, if there are several, and each task.

    `whole`: with p and power.
    """
    made = differences(table)
    if len(budgets := {d.row.budget for d in made}) > 1:
        raise SystemExit(f"{table.name} has budgets {', '.join(budgets)}: this block shows one")
    found = {(d.task, d.row.method): d for d in made}
    tasks = [None, *table.averaged] if None in table.columns else table.averaged
    for task in tasks:
        ours = [found.get((task, method)) for method in PRUNING]
        there = [d for d in ours if d]
        if not there:
            continue
        lora_row = Row("lora", there[0].row.budget)
        lora = average([_of_pairs(table, lora_row, t) for t in table.over(task)])
        cells = [model_title(table.model), f"{table.steps:,}"]
        cells += [table.column_title(task), f"{lora.mean:.1f}"]
        for d in ours:
            if d and d.p < ALPHA:
                grid.bold.add((len(grid.rows), len(cells)))
            cells += (_cells(d) if d else ["–"] * 3)[: 3 if whole else 1]
        grid.rows.append([*cells, number_range([n for d in there for n in d.seeds])])


def _of_pairs(table: Table, row: Row, task: str) -> list[float]:
    """Returns the row's scores of the seeds that a row of the others has too."""
    same_budget = [each for each in table.rows if each.budget == row.budget]
    others = [table.values(each, task) for each in same_budget if each != row]
    return [
        score for seed, score in table.values(row, task).items() if any(seed in o for o in others)
    ]


def _cells(d: Difference) -> list[str]:
    return [with_interval(d.estimate, "+"), p_value(d.p), points(d.detectable)]


def changes(folder: Path) -> str:
    """Returns LoRA's scores and the others' leads over it at each length, and how they change.

    The runs are of one model and budget. Changes are paired by seed. The average at a length is over
    the tasks of the shortest one, and is left out where a length lacks one of them.
    """
    view = View(by_length=True, methods=("lora", *PRUNING))
    lengths = tables(read_runs(folder), view)
    models = {(each.data, each.model) for each in lengths}
    budgets = {row.budget for each in lengths for row in each.rows}
    if len(models) > 1 or len(budgets) > 1:
        raise SystemExit(f"{folder} has several models or budgets: this block shows one of each")
    head = ["score", "method", *(f"{each.steps:,} steps" for each in lengths)]
    for longer in lengths[1:]:
        head += [f"change to {longer.steps:,} [95 %]", "p (Holm)"]
    grid = Grid("", head, [], text_columns=2)
    every = lengths[0].averaged
    _add_changes(grid, lengths, {"average": every})
    _add_changes(grid, lengths, {view.title(task): [task] for task in every})
    grid.notes += [
        "LoRA's scores and the others' less LoRA's, in points, paired by seed; changes are from the "
        "length before; the average takes tasks as independent",
        "p (Holm) is corrected for the changes of AdaLoRA and DoRA in this table, once for the tasks "
        "and once for the average, intervals are not; bold: p < 0.05",
    ]
    return markdown(grid)


def _add_changes(grid: Grid, lengths: Sequence[Table], scores: dict[str, list[str]]) -> None:
    """Adds three lines for each score, a title and its tasks; their changes are one family."""
    lines = [
        (title, method, [_ahead(table, method, tasks) for table in lengths])
        for title, tasks in scores.items()
        for method in ("lora", *PRUNING)
    ]
    found = {
        (title, method, at): _change(before, after)
        for title, method, ahead in lines
        for at, (before, after) in enumerate(pairwise(ahead))
        if before and after
    }
    tested = [key for key in found if key[1] in PRUNING]
    corrected = dict(zip(tested, holm([found[key].p_value() for key in tested]), strict=True))
    for title, method, ahead in lines:
        sign = "" if method == "lora" else "+"
        line = [title, TITLES[method]]
        line += [f"{_mean(groups):{sign}.1f}" if groups else "–" for groups in ahead]
        for at in range(len(lengths) - 1):
            key = title, method, at
            if corrected.get(key, 1) < ALPHA:
                grid.bold.add((len(grid.rows), len(line)))
            line.append(with_interval(found[key], "+") if key in found else "–")
            line.append(p_value(corrected[key]) if key in corrected else "–")
        grid.rows.append(line)


def _ahead(table: Table, method: str, tasks: Sequence[str]) -> list[dict[int, float]]:
    """Returns LoRA's scores by seed, or a method's less LoRA's, for each task; [] if one has none."""
    rows, found = {row.method: row for row in table.rows}, []
    if not {"lora", method} <= rows.keys():
        return []
    for task in tasks:
        lora, ours = (table.values(rows[name], task) for name in ("lora", method))
        found.append(
            lora if method == "lora" else {s: ours[s] - lora[s] for s in ours if s in lora}
        )
    return found if all(found) else []


def _mean(groups: list[dict[int, float]]) -> float:
    return average([list(by_seed.values()) for by_seed in groups]).mean


def _change(before: list[dict[int, float]], after: list[dict[int, float]]) -> Estimate:
    pairs = zip(before, after, strict=True)
    return average([[new[seed] - old[seed] for seed in new if seed in old] for old, new in pairs])
