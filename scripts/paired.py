"""Compares runs that differ in one setting, or two versions of the suite: differences by seed.

    python scripts/paired.py results/before results/after
    python scripts/paired.py results/precision --by precision=fp32,bf16

A and B are two results folders, or the runs of one folder with the one and the other value of a
setting (--by KEY takes the two values that occur, in alphabetical order). Runs of one data source,
model, task, method, budget and seed are a pair. Prints a Markdown table of scores in points: n
pairs, the means of A and B over them, the mean of B - A with its 95 % t interval over seeds, and
below it the settings in which the runs of a pair differ, and which commits made them. The average
of a method is over its tasks (`dora.analysis.stats.average`). The interval has a dash without two
pairs or where all differences are equal, because the seeds then do not show the error.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from dora.analysis.choice import chosen
from dora.analysis.grouping import showable
from dora.analysis.rows import budget_in_words, row_order
from dora.analysis.settings import in_words, settings
from dora.analysis.stats import average
from dora.analysis.table import Table
from dora.analysis.view import View
from dora.errors import UserError
from dora.plain import number_range
from dora.records.finished import read_runs
from dora.records.identity import NOT_IDENTITY
from dora.records.provenance import provenance
from dora.records.schema import Run

Group = tuple[str, str, str, str]  # data, model, method, budget


@dataclass(frozen=True)
class Pairs:
    """The scores (A, B) in points of the pairs of one task, and the records of both runs."""

    task: str
    scores: list[tuple[float, float]]
    runs: list[tuple[Run, Run]]

    @property
    def differences(self) -> list[float]:
        """The differences B - A in points, by seed."""
        return [b - a for a, b in self.scores]


def sides(folders: Sequence[Path], by: str | None, view: View) -> list[list[Table]]:
    """Returns the tables of A and those of B.

    Raises UserError for runs that no table can show, and unless there are two sides.
    """
    if len(folders) != (2 if by is None else 1):
        raise UserError("give two results folders, or one and --by KEY[=A,B]")
    runs = [read_runs(folder) for folder in folders]
    views = [view] * len(runs)
    if by is not None:
        key, values = _two_values(by, runs[0], view.where)
        runs *= 2  # both sides are in one folder, and `where` tells them apart
        views = [View(view.score, where=(*view.where, f"{key}={value}")) for value in values]
    # A side that holds two configurations of a cell is refused: no seed says which is meant.
    found = [showable(of_side, seen) for of_side, seen in zip(runs, views, strict=True)]
    if problems := [problem for _, of_side in found for problem in of_side]:
        raise UserError(*problems)
    return [tables for tables, _ in found]


def _two_values(by: str, runs: Sequence[Run], where: tuple[str, ...]) -> tuple[str, list[str]]:
    """Returns the key and the two values of `KEY=A,B`; for `KEY`, the two that the runs have.

    `where`: settings of the runs that count.
    """
    key, given, text = by.partition("=")
    shown = (settings(run) for run in chosen(list(runs), where))
    there = sorted({in_words(known[key]) for known in shown if key in known})
    values = text.split(",") if given else there
    if len(values) != 2:
        raise UserError(
            f"--by {by} must name two values (--by {key}=A,B); "
            f"the finished runs have {', '.join(there) or 'no such setting'}"
        )
    return key, values


def paired(a: Sequence[Table], b: Sequence[Table]) -> dict[Group, list[Pairs]]:
    """Returns the pairs of each data source, model, method and budget that both sides have."""
    found: dict[Group, list[Pairs]] = {}
    for one, other in product(a, b):
        if (one.data, one.model) != (other.data, other.model):
            continue
        for row in sorted(one.cells.keys() & other.cells.keys(), key=row_order):
            for task in (t for t in one.tasks if t in other.tasks):
                scores = one.values(row, task), other.values(row, task)
                seeds = sorted(scores[0].keys() & scores[1].keys())
                # A task without a pair would leave the method's average without a value.
                if seeds:
                    runs = [{r["seed"]: r for r in t.runs_of(row, task)} for t in (one, other)]
                    found.setdefault((one.data, one.model, *row), []).append(
                        Pairs(
                            task,
                            [(scores[0][s], scores[1][s]) for s in seeds],
                            [(runs[0][s], runs[1][s]) for s in seeds],
                        )
                    )
    return found


def lines(found: dict[Group, list[Pairs]], view: View) -> Iterator[str]:
    """Yields the lines of the table: a line a task, and the average of each method with several."""
    yield "| data | model | method | score | n | A | B | B - A | 95 % |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for (data, model, *row), tasks in found.items():
        name = f"{row[0]} {budget_in_words(row[1])}"
        for pairs in tasks:
            yield _line([data, model, name, view.title(pairs.task)], [pairs])
        if len(tasks) > 1:
            yield _line([data, model, name, "average"], tasks)


def _line(names: list[str], tasks: list[Pairs]) -> str:
    estimate = average([pairs.differences for pairs in tasks])
    low, high = estimate.interval()
    counts = sorted({len(pairs.scores) for pairs in tasks})
    cells = [" to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))]
    # The means over tasks of the tasks' means, as `average` takes the differences'.
    cells += [f"{mean(mean(s[i] for s in pairs.scores) for pairs in tasks):.2f}" for i in (0, 1)]
    interval = "–" if math.isnan(low) else f"{low:+.2f} to {high:+.2f}"
    return f"| {' | '.join([*names, *cells, f'{estimate.mean:+.2f}', interval])} |"


def notes(found: dict[Group, list[Pairs]]) -> Iterator[str]:
    """Yields which settings differ within pairs, which commits made either side, and this script's.

    `precision: fp32 in A, bf16 in B`.
    """
    # Read off the records, since folders may differ in more than their names say.
    runs = [pair for tasks in found.values() for pairs in tasks for pair in pairs.runs]
    differing: dict[str, set[str]] = {}
    for a, b in ((settings(a), settings(b)) for a, b in runs):
        for key in sorted(a.keys() | b.keys()):
            # A setting that one side lacks did not exist in the version that made it.
            values = [in_words(s[key]) if key in s else "unknown" for s in (a, b)]
            if values[0] != values[1] and key.split(".")[0] not in NOT_IDENTITY:
                differing.setdefault(key, set()).add(f"{values[0]} in A, {values[1]} in B")
    yield "The runs of a pair differ in: " + (
        "; ".join(f"{key}: {' or '.join(sorted(of))}" for key, of in differing.items())
        or "no setting"
    )
    counted = [
        sorted({run["evaluations"]["counted"] for run in of}) for of in zip(*runs, strict=True)
    ]
    if counted[0] != counted[1]:
        numbers = " evaluations in A, of ".join(map(number_range, counted))
        yield (
            f"Not alike: the best of {numbers} evaluations in B, and the best of more is higher by "
            "itself; --score last compares single ones"
        )
    for side, of_side in zip("AB", zip(*runs, strict=True), strict=True):
        made = sorted({_commit(start["git"]) for run in of_side for start in run["starts"]})
        torch = sorted({str(run["versions"].get("torch")) for run in of_side})
        yield f"{side}: {', '.join(made)}; torch {', '.join(torch)}"
    p = provenance()
    yield f"`{p['command']}`, commit {(p['git'] or {}).get('commit')}"


def _commit(git: dict[str, Any] | None) -> str:
    """Returns `commit 1234567`, marked if the sources had changes."""
    if git is None or git["commit"] is None:
        return "an installed package"
    return f"commit {git['commit'][:7]}{' (changed)' if git['dirty'] else ''}"


def main() -> None:
    """Prints the table and its notes; exits 2 where there is nothing to compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="results folders")
    parser.add_argument("--by", metavar="KEY[=A,B]", help="the setting that tells A from B")
    parser.add_argument("--score", choices=["best", "last"], default="best", help="default: best")
    parser.add_argument(
        "--where", nargs="+", default=[], metavar="KEY=VALUE", help="runs with these settings alone"
    )
    given = parser.parse_args()
    try:
        view = View(given.score, where=tuple(given.where))
        found = paired(*sides(given.folders, given.by, view))
        if not found:
            raise UserError("no run of A has a run of B with its task, method, budget and seed")
    except UserError as e:
        print(e, file=sys.stderr)
        sys.exit(e.exit_code)
    print("\n".join(lines(found, view)), *notes(found), sep="\n\n")


if __name__ == "__main__":
    main()
