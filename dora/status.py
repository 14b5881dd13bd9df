"""`python -m dora.status`: how far a study is, from its run directories alone."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import NoReturn

from dora.adapters.budget import in_words
from dora.analysis.layout import Grid, plain
from dora.analysis.rows import budget_order
from dora.errors import UserError
from dora.plain import printable
from dora.process.command import command
from dora.records import study
from dora.records.study import Seen

# States of runs that have to be started, or started again, to complete the study. A running one is
# somebody's already.
TO_DO = ("missing", "waiting", "stopped", "stale", "failed", "diverged", "broken")


def table(seen: list[Seen]) -> str:
    """Returns a line for each data, task, model, method and budget: its runs in each state."""
    # Only states that occur, the finished ones first.
    states = [state for state in study.STATES[::-1] if any(s.state == state for s in seen)]
    cells: dict[tuple[str, ...], list[Seen]] = defaultdict(list)
    for s in seen:
        cells[s.place[:5]].append(s)
    rows = []
    for place in sorted(cells, key=lambda place: (place[:4], budget_order(place[4]))):
        numbers = [sum(s.state == state for s in cells[place]) for state in states]
        # An empty cell, not a 0: what is left to do should stand out.
        counted = [str(n) if n else "" for n in numbers]
        rows.append([*place[:4], in_words(place[4]), *counted])
    return plain(Grid("", ["data", "task", "model", "method", "budget", *states], rows))


def details(seen: list[Seen]) -> list[str]:
    """Returns a line for each run at work, and for each that ended without a result."""
    lines = []
    for s in seen:
        if s.state == "running":
            # The step of its last checkpoint, from which it would resume.
            begun = s.step is not None
            step = (
                f"step {s.step:,} of {s.total_steps:,}" if begun else "not at its first checkpoint"
            )
            if s.rounds is not None:
                step += f" (round {s.rounds[0]:,} of {s.rounds[1]:,})"
            left = "" if s.left_s is None else f", about {study.duration(s.left_s)} left"
            lines.append(f"running   {s.name}: {step}{left}, {printable(s.reason)}")
        elif s.state in ("stopped", "stale", "failed", "diverged", "broken"):
            lines.append(f"{s.state:<9} {s.name}: {first_line(s)}")
    return lines


def first_line(seen: Seen) -> str:
    """Returns the reason why a run is not done, in one line."""
    # A record's reason begins with its status, which the line shows already.
    reason = (str(seen.reason or "").splitlines() or ["no reason given"])[0]
    return printable(reason.removeprefix(f"{seen.state}: "))


def verified(results: Path) -> NoReturn:
    """Prints which files are damaged; exit 0 where none is, 3 where one is, 1 without any run."""
    if not study.directories(results):
        sys.exit(no_run(results))
    # Late: it reads tensors and predictions, for which nothing else here waits.
    from dora.records.verify import report

    lines, sound = report(results)
    print(*lines, sep="\n")
    sys.exit(0 if sound else 3)


def no_run(results: Path) -> str:
    """Returns the message that there is no run, and how to make one."""
    return f"no run under {results / 'runs'}; make one with: python -m dora.run task=sst2"


def main() -> None:
    """Prints the table, JSON or commands.

    Exit 0 where every run is done, 3 where one is not, 1 where there is none, 2 where the records
    that somebody packed cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="python -m dora.status",
        description=__doc__,
        epilog="exit code: 0 all done, 3 not all, 1 no run there. missing: a run whose task, "
        "method, budget and seed all occur on its data and model, but not together. "
        "2: packed records that cannot be read.",
    )
    parser.add_argument(
        "--results",
        type=Path,
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
    given = parser.parse_args()
    try:
        if given.verify:
            verified(given.results)
        seen = study.scan(given.results)
    except UserError as e:  # packed records that cannot be read
        print(e, file=sys.stderr)
        sys.exit(e.exit_code)
    if not seen:
        sys.exit(no_run(given.results))
    # --json and --missing print for programs and shells: nothing but JSON or commands.
    if given.json:
        print(
            json.dumps({"count": study.count(seen), "runs": [s.as_json() for s in seen]}, indent=1)
        )
    elif given.missing:
        print(*(s.command for s in seen if s.state in TO_DO), sep="\n")
    else:
        print(table(seen))
        print("\n".join(["", *details(seen)]))
        print(f"{study.runs_in_words(len(seen))}: {study.in_words(study.count(seen))}")
        if any(s.state in TO_DO for s in seen):
            print(f"what is left to do, as commands: {study.missing_command(given.results)}")
    # A study that is not whole is no failure: 3, so that a script tells the two apart.
    sys.exit(0 if all(s.state == "done" for s in seen) else 3)


if __name__ == "__main__":
    command(main)
