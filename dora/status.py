"""`python -m dora.status`: how far a study is, from its run directories alone."""

from __future__ import annotations

from dora.process.signals import outside

if __name__ == "__main__":
    # Before the other imports, which take a second or more: Ctrl-C then ends in one line as well.
    outside.watch()

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from dora.analysis.tables.progress import TO_DO, report
from dora.cli import screen
from dora.errors import UserError
from dora.process.command import INCOMPLETE, command, path
from dora.records import gaps, study
from dora.records.directories import directories


def _parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m dora.status",
        description=__doc__,
        epilog="exit code: 0 all done, 3 not all, 2 no run there, or packed records that cannot be "
        "read. missing: a run whose task, "
        "method, budget and seed all occur on its data and model, but not together; each length by "
        "itself where there are several. superseded: left unfinished, and its command now names a "
        "newer run; nothing is left to do for it.",
    )
    parser.add_argument(
        "--results",
        type=path,
        default=Path("results"),
        help="the results folder (default: results)",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="every run as JSON")
    shown.add_argument(
        "--missing",
        action="store_true",
        help="the commands of all runs that are to be done, and nothing else",
    )
    shown.add_argument(
        "--verify",
        action="store_true",
        help="whether every run's record, files and scores are as it wrote them; exit code 0 all "
        "sound, 3 something is damaged",
    )
    shown.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=10.0,
        metavar="SECONDS",
        help="shows it again and again (every 10 seconds) until every run is done",
    )
    return parser


def main() -> None:
    """Prints the table, JSON or commands.

    Exit 0 where every run is done, 3 where one is not, 2 where there is none, or where the records
    that somebody packed cannot be read.
    """
    given = _parser().parse_args()
    if given.verify:
        _verify(given.results)
    seen = gaps.scan(given.results)
    while given.watch is not None and not _all_done(seen):
        screen.draw(report(seen, given.results))
        time.sleep(max(0.1, given.watch))
        seen = gaps.scan(given.results)
    if not seen:
        raise UserError(_no_run(given.results))
    # --json and --missing print for programs and shells: nothing but JSON or commands.
    if given.json:
        print(
            json.dumps({"count": study.count(seen), "runs": [s.as_json() for s in seen]}, indent=1)
        )
    elif given.missing:
        for s in (s for s in seen if s.state in TO_DO):  # with none, not even an empty line
            print(s.command)
    else:
        if given.watch is not None and sys.stdout.isatty():
            screen.clear()
        print(*report(seen, given.results), sep="\n")
    sys.exit(0 if _all_done(seen) else INCOMPLETE)


def _all_done(seen: Iterable[study.Seen]) -> bool:
    """Tells whether nothing is left to do."""
    return all(s.state in study.NOTHING_LEFT for s in seen)


def _verify(results: Path) -> NoReturn:
    """Prints which files are damaged; exit 0 where none is, 3 where one is.

    Raises UserError without any run.
    """
    if not directories(results):
        raise UserError(_no_run(results))
    # Late: it reads tensors and predictions, for which nothing else here waits.
    from dora.records import verify

    lines, sound = verify.report(results)
    print(*lines, sep="\n")
    sys.exit(0 if sound else INCOMPLETE)


def _no_run(results: Path) -> str:
    """Returns the message that there is no run, and how to make one."""
    search = results / "search"
    there = f", but there are under {search}: --results {search}" if directories(search) else ""
    way = there or f"; make one with: {study.first_command(results)}"
    return f"no run under {results / 'runs'}{way}"


if __name__ == "__main__":
    command(main)
