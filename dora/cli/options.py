"""The options that the commands over finished runs share, and the tables that these ask for."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from dora.analysis.choice import named
from dora.analysis.grouping import showable
from dora.analysis.other_runs import diverged, search_seconds
from dora.analysis.rows import BASELINE
from dora.analysis.studies import study_in, study_of
from dora.analysis.table import Table
from dora.analysis.view import View
from dora.errors import UserError
from dora.process.command import INCOMPLETE, path
from dora.records.directories import directories
from dora.records.finished import anything_left_out, read_runs
from dora.records.gaps import scan
from dora.records.place import place_of
from dora.records.study import Seen, first_command, look


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that tables, figures and report share."""
    parser.add_argument(
        "--results",
        type=path,
        default=Path("results"),
        help="the results folder (default: results)",
    )
    parser.add_argument(
        "--to",
        type=path,
        metavar="FOLDER",
        help="where to write (default: the results folder, tables/ and figures/ in it)",
    )
    _add_scoring(parser)
    _add_choice(parser)
    # The exit codes stand in --help, since scripts depend on them.
    parser.epilog = (
        f"exit code: 0 all shown, {INCOMPLETE} something was left out and named, "
        "2 nothing can be shown, or --to has files of another study, 1 the disk failed"
    )


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how runs are scored and compared."""
    parser.add_argument(
        "--score",
        choices=["best", "last"],
        default="best",
        help="best development evaluation of the second half (default), or the last one",
    )
    parser.add_argument(
        "--metric",
        nargs="+",
        action="extend",  # both `--metric a b` and `--metric a --metric b`
        default=[],
        metavar="TASK=METRIC",
        help="another score than a task's first metric: mrpc=f1, stsb=mean (of all its metrics)",
    )
    parser.add_argument(
        "--average",
        choices=["tasks", "glue"],
        default="tasks",
        help="tasks: one metric a task, WNLI apart (default); glue: as the leaderboard, "
        "the mean of a task's metrics and WNLI in",
    )
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="the method that others are compared with, at equal budget or without one: dora, full "
        f"(default: {BASELINE}); shown even if --methods does not name it",
    )


def _add_choice(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which runs are shown, and beside which others."""
    parser.add_argument(
        "--where",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="runs with these settings alone: lr=2e-3 method.alpha=16 seed=1 (any key of "
        "run.json's config, and arithmetic); a key given twice: either value; behind names of a "
        "task, method, budget, model or data source, asked of these runs alone, and all others "
        "stay: dora:lr=2e-3, rte:dora:r8:lr=2e-3",
    )
    shown = {
        "tasks": "rte,mrpc; averages are over these, and say so",
        "methods": "lora,dora; p values are corrected for the comparisons that are shown",
    }
    for what, help_text in shown.items():
        parser.add_argument(
            f"--{what}",
            nargs="+",
            action="extend",
            default=[],
            metavar="NAME,NAME",
            help=f"these {what} alone, by name or title: {help_text}",
        )
    parser.add_argument(
        "--mix-arithmetic",
        action="store_true",
        help="take runs together that differ in the arithmetic of this package alone; "
        "of a seed that is there twice, the newer",
    )
    parser.add_argument(
        "--by-length",
        action="store_true",
        help="a table for each number of training steps, and a figure of score against steps",
    )


@dataclass(frozen=True)
class Asked:
    """Holds the tables that a command line asks for.

    `given`: the options as they were typed. `left_out`: one reason for each run or table that
    cannot be shown. `seen`: all runs of the results folder, done or not.
    """

    given: argparse.Namespace
    tables: list[Table]
    left_out: list[str]
    seen: list[Seen] = field(default_factory=list)

    @property
    def results(self) -> Path:
        """The results folder."""
        return Path(self.given.results)

    def folder(self, name: str) -> Path:
        """Returns the folder to write to: the one of --to, else `name` in the results folder."""
        return self.given.to or self.results / name

    def note_searches(self) -> None:
        """Notes in the tables how long the search in the results folder took, for their costs.

        A search that cannot be read is named, and costs these hours alone.
        """
        places = {(table.data, table.model) for table in self.tables}
        search = self.results / "search"
        try:
            folders = [(place_of(folder), folder) for folder in directories(search)]
            seen = [look(folder) for at, folder in folders if (at.data, at.model) in places]
        except UserError as e:
            print(e.under(f"the hours of the search are left out: {search}:"), file=sys.stderr)
            return
        for table in self.tables:
            table.searched_s = search_seconds(table, seen)

    def refuse_overwriting(self, made: Iterable[Iterable[str]]) -> None:
        """Raises UserError where the folder of --to has files of another study.

        `made`: groups of names in that folder, each written together. The files in the results
        folder itself are rewritten, also once that folder has got another name.
        """
        if not (to := self.given.to):
            return
        study, problems = study_of(self.results), []
        for names in made:
            found = {name: study_in(to / name) for name in names}
            others = [(name, its) for name, its in found.items() if its not in (None, study)]
            if others:
                name, other = others[0]  # the rest would say no more
                problems.append(
                    f"--to {to}: {name} there is of {other}, and a study ({study}) overwrites its own "
                    "files alone: name another folder, or remove those of the other study"
                )
        if problems:
            raise UserError(*problems)

    def end(self) -> None:
        """Prints what was left out and exits with `INCOMPLETE`; returns if nothing was."""
        if self.left_out:
            print(
                "left out:",
                *(f"  - {problem}" for problem in self.left_out),
                sep="\n",
                file=sys.stderr,
            )
        # A file of a run that could not be read is named at once, not in this list.
        if self.left_out or anything_left_out(self.results):
            sys.exit(INCOMPLETE)


def found_tables(given: argparse.Namespace) -> Asked:
    """Returns the tables that the arguments of `add_arguments` ask for.

    Raises UserError if none can be made.
    """
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
        by_length=given.by_length,
        transposed=getattr(given, "transpose", False),
        baseline=BASELINE if given.baseline is None else given.baseline,
    )
    runs = read_runs(given.results)
    # Without a run there is no name to know.
    if runs:
        tasks, methods = named(given.tasks, given.methods, runs)
        there = sorted({run["config"]["method"]["name"] for run in runs})
        if view.baseline not in (BASELINE, *there):
            raise UserError(
                f"--baseline {view.baseline}: no finished run has it; there are {', '.join(there)}"
            )
        # Whoever names a baseline asks for the comparison with it.
        if methods and given.baseline in there:
            methods = tuple(sorted({*methods, given.baseline}))
        view = replace(view, tasks=tasks, methods=methods)
    found, left_out = showable(runs, view)
    # With no table at all the reasons are the message; beside a table `end` prints them after it.
    if left_out and not found:
        raise UserError(*left_out)
    if runs and not found:
        raise UserError(f"no finished run has {' and '.join(view.choice)} at once")
    if not found:
        raise UserError(
            f"no finished run under {given.results / 'runs'}; "
            f"make one with: {first_command(given.results)}"
        )
    # The records that were read are passed on, so that no file is read twice.
    seen = scan(given.results, {run["folder"]: run for run in runs})
    for table in found:
        table.diverged = diverged(table, seen)
    return Asked(given, found, left_out, seen)


def asked_for(
    prog: str,
    about: str | None,
    first: Callable[[], None] = lambda: None,
    own: argparse.ArgumentParser | None = None,
) -> Asked:
    """Parses the command line of `python -m PROG` and returns the tables that it asks for.

    `first`: called before the runs are read, since reading may take a while; it raises UserError
    for a missing library. `own`: the command's own options, found in `Asked.given`.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {prog}",
        description=about,
        # The description is a module's docstring, shown with the line breaks it has.
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[] if own is None else [own],
    )
    add_arguments(parser)
    given = parser.parse_args()
    if given.to and given.to.exists() and not given.to.is_dir():
        raise UserError(f"--to {given.to} is a file: name a folder")
    first()
    return found_tables(given)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turns an OSError into a message that names the file, and exit code 1."""
    try:
        yield
    # A full disk or a right that is missing is no bug: it gets no traceback.
    except OSError as e:
        sys.stdout.flush()  # tables printed so far come before the message
        sys.exit(
            f"{e.filename} cannot be written: {e.strerror}; "
            "once that is mended, the same command writes it"
        )
