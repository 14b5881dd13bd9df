"""Writes the tables of the committed records into the pages that show them.

    python scripts/results_page.py [PAGE ...]
    python scripts/results_page.py --check [PAGE ...]    # exit code 1 if a page is out of date

Without PAGE: README.md and all pages in results/. A page marks each place with a comment
`<!-- KIND NAME -->`, where NAME is relative to the page; the text up to `<!-- end -->` is replaced:

    pruned FOLDERS   AdaLoRA and DoRA less LoRA in all runs of neighbouring folders, A/B,C
    verdict FOLDERS  the same without p and power, for a page that links to the other
    changes FOLDER   the same at each length of a run, and how it changes from one to the next
    variants FOLDER  a method's settings beside each other, and what each of them does
    tables FOLDER    scores of the runs in a folder, and differences from LoRA
    search FOLDER    the table of a search of learning rates
    bench FILE       the measurements in a file of `python -m dora.bench`

All other text on the page is left as it is.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Sequence
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any

from dora.analysis.comparison import ALPHA, Difference, differences
from dora.analysis.finished import read_runs
from dora.analysis.grouping import Table, tables
from dora.analysis.names import model_title
from dora.analysis.rows import Row
from dora.analysis.searches import of_runs
from dora.analysis.stats import average
from dora.analysis.tables.contents import findings, p_value, points
from dora.analysis.tables.files import report
from dora.analysis.tables.layout import Grid, markdown
from dora.analysis.tables.scores import with_interval
from dora.analysis.tables.searches import table
from dora.analysis.view import View
from dora.files import write_atomic
from dora.plain import number_range
from dora.records.identity import LATER

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "results").rglob("*.md"))]
# `.*?`: up to the nearest end, or the first block would reach to the last.
BLOCK = re.compile(
    r"(<!-- (pruned|verdict|changes|variants|tables|search|bench) (\S+) -->\n).*?(<!-- end -->)",
    re.DOTALL,
)


PRUNING = ("adalora", "dora")
TITLES = {"lora": "LoRA", "adalora": "AdaLoRA − LoRA", "dora": "DoRA − LoRA"}
# The values of the settings that differ → the score of each seed.
Cells = dict[tuple[Any, ...], dict[int, float]]


def pruned(folders: Path) -> str:
    """Returns the methods that prune, each less LoRA, for every model, length and task.

    p is corrected for the comparisons of each model and length, once for its tasks and once for
    their average.
    """
    grid = _compared(folders, ("p (Holm)", "shown with 80 % power"))
    grid.notes += [
        "points, paired by seed; p corrected for the comparisons of this table at a model and length "
        "(Holm), once for the tasks and once for their average; intervals are not; bold: p < 0.05",
        "shown with 80 % power: the true difference that as many seeds with this spread would show "
        "at Holm's first step in four studies of five",
        "scores: the best of a run's development evaluations in its second half; average: over unlike "
        "metrics, its error that of each task's seeds, taken as independent",
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
    made = [d for each in (False, True) for d in differences(table, each)]
    if len(budgets := {d.row[1] for d in made}) > 1:
        raise SystemExit(f"{table.name} has budgets {', '.join(budgets)}: this block shows one")
    found = {(d.task, d.row[0]): d for d in made}
    tasks = [None, *table.averaged] if len(table.averaged) > 1 else table.averaged
    for task in tasks:
        ours = [found.get((task, method)) for method in PRUNING]
        there = [d for d in ours if d]
        if not there:
            continue
        over = [task] if task else table.averaged
        lora = average([_of_pairs(table, ("lora", there[0].row[1]), t) for t in over])
        cells = [model_title(table.model), f"{table.steps:,}"]
        cells += [table.view.title(task) if task else "average", f"{lora.mean:.1f}"]
        for d in ours:
            if d and d.p < ALPHA:
                grid.bold.add((len(grid.rows), len(cells)))
            cells += (_cells(d) if d else ["–"] * 3)[: 3 if whole else 1]
        grid.rows.append([*cells, number_range([n for d in there for n in d.seeds])])


def _of_pairs(table: Table, row: Row, task: str) -> list[float]:
    """Returns the row's scores of the seeds that a row of the others has too."""
    others = [table.values(each, task) for each in table.rows if each[1] == row[1] and each != row]
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
    lengths = sorted(tables(read_runs(folder), view), key=lambda each: each.steps or 0)
    head = ["score", "method", *(f"{each.steps:,} steps" for each in lengths)]
    for longer in lengths[1:]:
        head += [f"change to {longer.steps:,} [95 %]", "p"]
    grid = Grid("", head, [], text_columns=2)
    every = lengths[0].averaged
    for tasks in [every, *([task] for task in every)]:
        for method in ("lora", *PRUNING):
            at = [_ahead(each, method, tasks) for each in lengths]
            line = ["average" if tasks == every else view.title(tasks[0]), TITLES[method]]
            sign = "" if method == "lora" else "+"
            line += [f"{_mean(groups):{sign}.1f}" if groups else "–" for groups in at]
            for before, after in pairwise(at):
                line += _change(before, after)
            grid.rows.append(line)
    grid.notes.append(
        "LoRA's scores and the others' less LoRA's, in points, paired by seed; changes are from the "
        "length before; p as it is, not corrected"
    )
    return markdown(grid)


def _ahead(table: Table, method: str, tasks: Sequence[str]) -> list[dict[int, float]]:
    """Returns LoRA's scores by seed, or a method's less LoRA's, for each task; [] if one has none."""
    rows = {row[0]: row for row in table.rows}
    found = []
    for task in tasks:
        lora, ours = (table.values(rows[name], task) for name in ("lora", method))
        found.append(
            lora if method == "lora" else {s: ours[s] - lora[s] for s in ours if s in lora}
        )
    return found if all(found) else []


def _mean(groups: list[dict[int, float]]) -> float:
    return average([list(by_seed.values()) for by_seed in groups]).mean


def _change(before: list[dict[int, float]], after: list[dict[int, float]]) -> list[str]:
    """Returns the change's cells, interval and p."""
    if not (before and after):
        return ["–", "–"]
    change = average(
        [[new[s] - old[s] for s in new if s in old] for old, new in zip(before, after, strict=True)]
    )
    return [with_interval(change, "+"), p_value(change.p_value())]


def variants(folder: Path) -> str:
    """Returns the scores of one method's settings on one task, and the effect of each setting.

    Alpha stands as what it does: the scale of the update, alpha over the rank at the start.
    """
    runs = read_runs(folder)
    (task,) = {run["config"]["task"] for run in runs}
    # A setting that came later has the value in LATER where a record lacks it.
    methods = []
    for run in runs:
        method = run["config"]["method"]
        method = method | LATER.get(method["name"], {}) | method
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
    grid = Grid("", ["setting", f"{title} [95 %]", "p", "cells"], [], text_columns=1)
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
            if not pairs:
                continue
            effect = average([[b[seed] - a[seed] for seed in a if seed in b] for a, b in pairs])
            where = "" if given is None else f", {first} {given}"
            line = [f"{name}: {high} less {low}{where}", with_interval(effect, "+")]
            grid.rows.append([*line, p_value(effect.p_value()), str(len(pairs))])
    grid.notes.append(
        "points, paired by seed, averaged over cells that are equal in all else; each cell has the "
        "error of its seeds; p as it is, not corrected"
    )
    return grid


def shown(folder: Path) -> str:
    """Returns scores and differences of every table that the runs under `folder` make.

    A table for each number of steps if a model's runs have several.
    """
    runs = read_runs(folder)
    lengths = {(run["config"]["model"], run["total_steps"]) for run in runs}
    several = len(lengths) > len({model for model, _ in lengths})
    return "\n\n".join(report(findings(table)) for table in tables(runs, View(by_length=several)))


def searched(folder: Path) -> str:
    """Returns the table of the searches of learning rates whose runs lie under `folder`."""
    return "\n".join(table(of_runs(read_runs(folder))))


def measured(file: Path) -> str:
    """Returns the command, its place, and the tables of steps, whole runs and start-up in a file."""
    # Late: they need PyTorch, and most pages hold no benchmark.
    from dora.timing.measure import table as steps_table
    from dora.timing.setting import Setting
    from dora.timing.whole_run import runs_table

    found = json.loads(file.read_text(encoding="utf-8"))
    v, git = found["versions"], found["git"]
    changed = " (changed)" if git["dirty"] else ""
    where = f"commit {git['commit'][:7]}{changed}, {found['cpus']} CPU cores, Python {v['python']}"
    versions = ", ".join(f"{name} {v[name]}" for name in ("torch", "transformers"))
    peft = f", PEFT {found['compared']['peft']}" if "peft" in found["compared"] else ""
    # A load far above the candidates' threads: something else was at work, and times are too long.
    loads = " and ".join(f"{found[when][0]:.1f}" for when in ("load_before", "load_after"))
    parts = [
        f"    {found['command']}",
        f"{where}, {versions}{peft}; load average before and after: {loads}.",
    ]
    parts += [
        "\n".join(steps_table(Setting(**t["setting"]), t["figures"]))
        for t in found.get("tables", [])
    ]
    parts += ["\n".join(runs_table(t["setting"], t["figures"])) for t in found.get("runs", [])]
    if "startup" in found:
        rows = [
            f"| {name} | {f['wall_s']:.1f} | {f['cpu_s']:.1f} |"
            for name, f in found["startup"].items()
        ]
        parts.append("\n".join(["| start-up | seconds | CPU-seconds |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


MAKERS = {
    "pruned": pruned,
    "verdict": verdict,
    "changes": changes,
    "variants": variants,
    "tables": shown,
    "search": searched,
    "bench": measured,
}


def page(path: Path) -> str:
    """Returns the page's text with every block made anew."""

    def block(found: re.Match[str]) -> str:
        begin, kind, folder, end = found.groups()
        return f"{begin}\n{MAKERS[kind](path.parent / folder)}\n\n{end}"

    return BLOCK.sub(block, path.read_text(encoding="utf-8"))


def main() -> None:
    """Writes the pages; with --check compares them instead, and exits 1 if one is out of date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", type=Path, nargs="*", default=PAGES, help="Markdown files")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    given = parser.parse_args()
    for file in given.pages:
        text = page(file)
        if not given.check:
            write_atomic(file, text)
        elif text != file.read_text(encoding="utf-8"):
            sys.exit(f"{file} does not show what the records say: python scripts/results_page.py")


if __name__ == "__main__":
    main()
