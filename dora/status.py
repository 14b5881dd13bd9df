"""`python -m dora.status`: how far a study is, from its run directories alone."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import NoReturn

from dora.adapters.budget import in_words
from dora.plain import printable
from dora.process.command import command
from dora.records import study
from dora.records.study import Seen

# What has to be typed, or typed again, for the study to be whole.
TO_DO = ("missing", "waiting", "stopped", "stale", "failed", "diverged", "broken")


def table(seen: list[Seen]) -> str:
    """A line for each data, task, model, method and budget with the number of its runs in each state."""
    states = [state for state in study.STATES[::-1] if any(s.state == state for s in seen)]
    cells: dict[tuple[str, ...], list[Seen]] = defaultdict(list)
    for s in seen:
        cells[s.place[:5]].append(s)
    lines = [["data", "task", "model", "method", "budget", *states]]
    for place, runs in sorted(cells.items()):
        numbers = [sum(s.state == state for s in runs) for state in states]
        named = map(printable, [*place[:4], in_words(place[4])])
        lines.append([*named, *(str(n) if n else "" for n in numbers)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def details(seen: list[Seen]) -> list[str]:
    """A line for each run at work, and for each that ended without a result."""
    lines = []
    for s in seen:
        if s.state == "running":
            step = (
                "not at its first checkpoint"
                if s.step is None
                else f"step {s.step:,} of {s.total_steps:,}"
            )
            left = "" if s.left_s is None else f", about {study.duration(s.left_s)} left"
            lines.append(f"running   {s.name}: {step}{left}, {printable(s.reason)}")
        elif s.state in ("stopped", "stale", "failed", "diverged", "broken"):
            lines.append(f"{s.state:<9} {s.name}: {first_line(s)}")
    return lines


def first_line(seen: Seen) -> str:
    """Why a run is not done, in one line."""
    reason = (str(seen.reason or "").splitlines() or ["no reason given"])[0]
    return printable(reason.removeprefix(f"{seen.state}: "))


def verified(results: Path) -> NoReturn:
    """Prints what is damaged; exit 0 where nothing is, 3 where something is, 1 where there is no run."""
    if not study.directories(results):
        sys.exit(no_run(results))
    from dora.records.verify import report  # late: the rest needs none of what it needs

    lines, sound = report(results)
    print(*lines, sep="\n")
    sys.exit(0 if sound else 3)


def no_run(results: Path) -> str:
    """Says that there is nothing to look at, and how to make something."""
    return f"no run under {results / 'runs'}; make one with: python -m dora.run task=sst2"


def main() -> None:
    """Prints the table, JSON or commands; exit 0 where every run is done, 3 where not, 1 where there is none."""
    parser = argparse.ArgumentParser(
        prog="python -m dora.status",
        description=__doc__,
        epilog="exit code: 0 all done, 3 not all, 1 no run there. missing: a run whose task, method, budget and "
        "seed all occur on its data and model, but not together.",
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
        help="whether every run's record, files and scores are as it wrote them; exit code 0 all sound, 3 something is damaged",
    )
    given = parser.parse_args()
    if given.verify:
        verified(given.results)
    seen = study.scan(given.results)
    if not seen:
        sys.exit(no_run(given.results))
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
    sys.exit(0 if all(s.state == "done" for s in seen) else 3)


if __name__ == "__main__":
    command(main)
