"""`python -m dora.tables`: finished runs as tables for a paper, from their run.json alone.

For each data source and model, under results/tables: Markdown (also printed), LaTeX (a file a table) and CSV.
A cell that holds several configurations, such as a search of rates, is left out and named; --where chooses one.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dora import study
from dora.cells import BASELINE, Run, Table, View, anything_left_out, dirty, read_runs, showable
from dora.command import command
from dora.compare import Difference, differences
from dora.errors import UserError
from dora.files import write_atomic
from dora.grid import Grid, in_markdown, latex_file, markdown
from dora.plain import printable
from dora.sheets import grids

HOLES_SHOWN = 20
LEFT_OUT = 3  # exit code, as `dora.status` has it for a study that is not whole


def holes(table: Table, seen: Sequence[study.Seen]) -> list[str]:
    """The commands of the runs that this table lacks; none where it shows a choice of runs."""
    if table.view.where:
        return []
    return [
        s.command for s in seen if (s.place[0], s.place[2]) == (table.data, table.model) and s.state != "done"
    ]


def report(sheets: Sequence[Grid], missing: Sequence[str] = (), results: Path = Path("results")) -> str:
    """All tables of one study in Markdown under a heading; `missing`: the commands that fill their holes in `results`."""
    first, *rest = sheets
    parts = [f"## {in_markdown(first.caption)}", markdown(first)]
    for grid in rest:
        parts += [f"### {in_markdown(grid.caption.partition(': ')[2])}", markdown(grid)]
    if missing:
        more = [f"# and {len(missing) - HOLES_SHOWN} more: {study.missing_command(results)}"] if len(missing) > HOLES_SHOWN else []  # fmt: skip
        parts += [f"### missing runs: {len(missing)}", "\n".join(f"    {line}" for line in [*missing[:HOLES_SHOWN], *more])]  # fmt: skip
    return "\n\n".join(parts)


def _lines(table: Table) -> Iterator[dict[str, Any]]:
    """A line of the CSV for each cell and each average; numbers in full."""
    for row in table.rows:
        runs = table.runs_of(row)
        common = {
            "data": table.data,
            "model": table.model,
            "score": table.view.score,
            "method": row[0],
            "budget": row[1],
            "adapter_params_min": min((r["params"]["adapter_end"] for r in runs), default=None),
            "adapter_params_max": max((r["params"]["adapter_end"] for r in runs), default=None),
            "head_params_max": max((r["params"]["head"] for r in runs), default=None),
        }
        for task in table.tasks:
            known, of_task = table.values(row, task), table.runs_of(row, task)
            several = len(known) > 1
            yield {**common, "task": task, "metric": table.view.metric(task), "n": len(known),
                   "mean": statistics.mean(known.values()) if known else None,
                   "std": statistics.stdev(known.values()) if several else None,
                   "median": statistics.median(known.values()) if known else None,
                   "values": " ".join(f"{seed}:{value:.4f}" for seed, value in known.items()),
                   "missing_seeds": " ".join(map(str, sorted(table.seeds - known.keys()))),
                   "degenerate": sum(bool(r["results"][table.view.score]["degenerate"]) for r in of_task),
                   "dirty": sum(map(dirty, of_task)),
                   "train_s_mean": statistics.mean(r["train_s"] for r in of_task) if of_task else None,
                   "peak_memory_bytes_max": max((r["peak_memory_bytes"] for r in of_task), default=None)}  # fmt: skip
        if (estimate := table.average(row)) is not None and len(table.averaged) > 1:
            low, high = estimate.interval()
            yield {**common, "task": "average", "mean": estimate.mean, "low": low, "high": high}


def _difference_lines(found: Sequence[Difference], table: Table) -> Iterator[dict[str, Any]]:
    for d in found:
        low, high = d.estimate.interval()
        of_examples = d.examples or (None, None)
        yield {"data": table.data, "model": table.model, "score": table.view.score, "method": d.row[0],
               "budget": d.row[1], "against": BASELINE, "task": d.task or "average", "mean": d.estimate.mean,
               "low": low, "high": high, "examples_low": of_examples[0], "examples_high": of_examples[1],
               "p_holm": d.p, "better": d.better, "detectable": d.estimate.detectable(),
               "seeds": min(d.seeds)}  # fmt: skip


def as_csv(lines: Sequence[dict[str, Any]]) -> str:
    """Lines under the head of all their keys; floats to six digits after the point, nothing where there is none (NaN).

    A text that a spreadsheet would compute, such as a model called `=cmd()`, begins with an apostrophe.
    """
    names = list(dict.fromkeys(key for line in lines for key in line))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n", restval="")
    writer.writeheader()
    for line in lines:
        known = {k: v for k, v in line.items() if not (isinstance(v, float) and math.isnan(v))}
        writer.writerow({k: _csv_cell(v) for k, v in known.items()})
    return file.getvalue()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, str):
        text = printable(value)
        return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
    return f"{value:.6f}" if isinstance(value, float) else value


def files(table: Table, results: Path, missing: Sequence[str]) -> dict[str, str]:
    """The table's files, name → text, the Markdown first."""
    sheets = grids(table)
    found = {f"{table.name}.md": report(sheets, missing, results) + "\n"}
    for grid in sheets:
        name = f"{table.name}{f'-{grid.name}' if grid.name else ''}"
        found[f"{name}.tex"] = latex_file(grid, name, "python -m dora.tables")
    found[f"{table.name}.csv"] = as_csv(list(_lines(table)))
    averages = differences(table) if len(table.averaged) > 1 else []
    if compared := [*averages, *differences(table, by_task=True)]:
        found[f"{table.name}-differences.csv"] = as_csv(list(_difference_lines(compared, table)))
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What tables, figures and report have in common."""
    parser.add_argument("--results", type=Path, default=Path("results"),
                        help="the results folder (default: results)")  # fmt: skip
    parser.add_argument("--score", choices=["best", "last"], default="best",
                        help="best development evaluation of the second half (default), or the last one")  # fmt: skip
    parser.add_argument("--metric", nargs="+", action="extend", default=[], metavar="TASK=METRIC",
                        help="another score than a task's first metric: mrpc=f1, stsb=mean (of all its metrics)")  # fmt: skip
    parser.add_argument("--average", choices=["tasks", "glue"], default="tasks",
                        help="tasks: one metric a task, WNLI apart (default); glue: as the leaderboard, the mean of a "
                        "task's metrics and WNLI in")  # fmt: skip
    parser.add_argument(
        "--where",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="runs with these settings alone: lr=2e-3 method.alpha=16 seed=1 (any key of run.json's "
        "config, and arithmetic); a key given twice: either value",
    )
    parser.add_argument(
        "--mix-arithmetic",
        action="store_true",
        help="take runs together that differ in the arithmetic of this package alone; of a seed that "
        "is there twice, the newer",
    )
    parser.epilog = f"exit code: 0 all shown, {LEFT_OUT} something was left out and named, 2 nothing can be shown, 1 the disk failed"


@dataclass(frozen=True)
class Asked:
    """What a command line asks for: the tables that can be made, why anything is left out of them, and all runs read."""

    results: Path
    tables: list[Table]
    left_out: list[str]
    known: dict[Path, Run] = field(default_factory=dict)

    def end(self) -> None:
        """Says what was left out and exits with `LEFT_OUT`, where anything was."""
        if self.left_out:
            print("left out:", *(f"  - {problem}" for problem in self.left_out), sep="\n", file=sys.stderr)
        if self.left_out or anything_left_out(self.results):
            sys.exit(LEFT_OUT)


def found_tables(given: argparse.Namespace) -> Asked:
    """The tables that the arguments of `add_arguments` ask for. Raises UserError where none can be made."""
    split = [word.partition("=") for word in given.metric]
    if wrong := [word for word, (_, equals, _) in zip(given.metric, split, strict=True) if not equals]:
        raise UserError(*(f"--metric {word} must be TASK=METRIC, as mrpc=f1" for word in wrong))
    view = View(
        given.score,
        {task: metric for task, _, metric in split},
        given.average == "glue",
        tuple(given.where),
        given.mix_arithmetic,
    )
    runs = read_runs(given.results)
    found, left_out = showable(runs, view)
    if left_out and not found:
        raise UserError(*left_out)
    if not found:
        raise UserError(
            f"no finished run under {given.results / 'runs'}; make one with: python -m dora.run task=sst2"
        )
    return Asked(given.results, found, left_out, {run["folder"]: run for run in runs})


def asked_for(prog: str, about: str | None, first: Callable[[], None] = lambda: None) -> Asked:
    """What a command line asks for; `first` is checked before runs are read.

    A UserError is a message and exit code 2.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=about,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add_arguments(parser)
    given = parser.parse_args()
    try:
        first()
        return found_tables(given)
    except UserError as e:
        print(e, file=sys.stderr)
        sys.exit(e.exit_code)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Makes a message with exit code 1 of what goes wrong on a disk, which names the file."""
    try:
        yield
    except OSError as e:
        sys.stdout.flush()  # what is on it comes before the message
        sys.exit(
            f"{e.filename} cannot be written: {e.strerror}; once that is mended, the same command writes it"
        )


def main() -> None:
    """Prints and writes the tables; exit 2 where there is nothing to show, 3 where cells are left out, 1 where the disk failed."""
    asked = asked_for("dora.tables", __doc__)
    seen = study.scan(asked.results, asked.known)
    folder = asked.results / "tables"
    whole: dict[str, str] = {}
    for table in asked.tables:
        made = files(table, asked.results, holes(table, seen))
        print(next(iter(made.values())))
        whole |= made
    with writing():
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in whole.items():
            write_atomic(folder / name, text)
    names = ", ".join(table.name for table in asked.tables)
    print(f"written to {folder}: {names}, each as .md and .csv, and a .tex for each of its tables")
    asked.end()


if __name__ == "__main__":
    command(main)
