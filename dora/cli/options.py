"""Options that the commands over finished runs share, and how they end."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dora.analysis.grouping import Table, View, anything_left_out, read_runs, showable
from dora.errors import UserError
from dora.records.schema import Run

LEFT_OUT = 3  # exit code, as `dora.status` has it for a study that is not whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What tables, figures and report have in common."""
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        help="the results folder (default: results)",
    )
    parser.add_argument(
        "--score",
        choices=["best", "last"],
        default="best",
        help="best development evaluation of the second half (default), or the last one",
    )
    parser.add_argument(
        "--metric",
        nargs="+",
        action="extend",
        default=[],
        metavar="TASK=METRIC",
        help="another score than a task's first metric: mrpc=f1, stsb=mean (of all its metrics)",
    )
    parser.add_argument(
        "--average",
        choices=["tasks", "glue"],
        default="tasks",
        help="tasks: one metric a task, WNLI apart (default); glue: as the leaderboard, the mean of a "
        "task's metrics and WNLI in",
    )
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
            print(
                "left out:",
                *(f"  - {problem}" for problem in self.left_out),
                sep="\n",
                file=sys.stderr,
            )
        if self.left_out or anything_left_out(self.results):
            sys.exit(LEFT_OUT)


def found_tables(given: argparse.Namespace) -> Asked:
    """The tables that the arguments of `add_arguments` ask for. Raises UserError where none can be made."""
    split = [word.partition("=") for word in given.metric]
    if wrong := [
        word for word, (_, equals, _) in zip(given.metric, split, strict=True) if not equals
    ]:
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
    parser = argparse.ArgumentParser(
        prog=f"python -m {prog}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
