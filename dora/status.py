"""`python -m dora.status`: how far a study is, from its run directories alone."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NoReturn

from dora.adapters.budget import in_words
from dora.analysis.layout import Grid, plain
from dora.analysis.rows import budget_order
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.plain import counted, printable
from dora.process.command import command
from dora.records import estimate, study
from dora.records.study import Seen

# States of runs that have to be started, or started again, to complete the study. A running one is
# somebody's already.
TO_DO = ("missing", "waiting", "stopped", "stale", "failed", "diverged", "broken")


def table(seen: list[Seen]) -> str:
    """Returns a line for each data, task, model, method and budget: its runs in each state.

    Runs of unequal lengths are apart where one line would hold both.
    """
    # Only states that occur, the finished ones first.
    states = [state for state in study.STATES[::-1] if any(s.state == state for s in seen)]
    # A run whose record cannot be read has no length.
    lengths = {(s.place[:5], s.length) for s in seen if s.length}
    several = len(lengths) > len({place for place, _ in lengths})
    cells: dict[tuple[tuple[str, ...], str], list[Seen]] = defaultdict(list)
    for s in seen:
        cells[s.place[:5], (s.length or "?") if several else ""].append(s)
    rows = []
    for place, length in sorted(cells, key=_order):
        runs = cells[place, length]
        numbers = [sum(s.state == state for s in runs) for state in states]
        # An empty cell, not a 0: what is left to do should stand out.
        counted = [str(n) if n else "" for n in numbers]
        named = [length] if several else []
        rows.append([*place[:4], in_words(place[4]), *named, *counted, score(runs)])
    named = ["length"] if several else []
    head = ["data", "task", "model", "method", "budget", *named, *states, "best score"]
    return plain(Grid("", head, rows))


def _order(cell: tuple[tuple[str, ...], str]) -> tuple[Any, ...]:
    """Returns what lines are ordered by: `600 steps` comes before `1800 steps`."""
    place, length = cell
    number = length.split(" ")[0]
    return place[:4], budget_order(place[4]), int(number) if number.isdigit() else 0


def score(seen: list[Seen]) -> str:
    """Returns the mean best score of the finished runs in points; empty if there is none.

    Runs with unequal settings, as in a search, have the range of their means: `12.5 to 33.5`.
    """
    task = TASKS.get(seen[0].place[1])
    if task is None:  # a folder of somebody else's
        return ""
    found: dict[str, list[float]] = defaultdict(list)
    for s in seen:
        if s.score and task.metrics[0] in s.score:
            found[s.place[5]].append(s.score[task.metrics[0]])
    means = [f"{100 * mean:.1f}" for mean in sorted(map(statistics.fmean, found.values()))]
    return " to ".join(dict.fromkeys((means[0], means[-1]))) if means else ""


def details(seen: list[Seen]) -> list[str]:
    """Returns a line for each run at work, and for each that ended without a result."""
    lines = []
    for s in seen:
        if s.state == "running":
            step = at_step(s) or "not at its first checkpoint"
            if s.rounds is not None:
                step += f" (round {s.rounds[0]:,} of {s.rounds[1]:,})"
            speed = f", {s.step / s.seconds:.2g} steps/s" if s.step and s.seconds else ""
            left = "" if s.left_s is None else f", about {study.duration(s.left_s)} left"
            lines.append(f"running   {s.name}: {step}{speed}{left}, {printable(s.reason)}")
        elif s.state in ("stopped", "stale", "failed", "diverged", "broken"):
            # A killed process could not say how far it was.
            step = f"{at_step(s)}, " if s.state == "stale" and s.step else ""
            lines.append(f"{s.state:<9} {s.name}: {step}{first_line(s)}")
    return lines


def at_step(seen: Seen) -> str | None:
    """Returns `step 30 of 90`, of the last checkpoint; None where there is none."""
    return None if seen.step is None else f"step {seen.step:,} of {seen.total_steps:,}"


def time_left(seen: list[Seen]) -> str | None:
    """Returns a line on how long the study will still take, None where nothing tells."""
    left = estimate.left(seen, TO_DO)
    return None if left is None else f"left: {estimate.in_words(left)}"


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
    return f"no run under {results / 'runs'}; make one with: {study.first_command(results)}"


def main() -> None:
    """Prints the table, JSON or commands.

    Exit 0 where every run is done, 3 where one is not, 1 where there is none, 2 where the records
    that somebody packed cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="python -m dora.status",
        description=__doc__,
        epilog="exit code: 0 all done, 3 not all, 1 no run there, 2 packed records that cannot be "
        "read. missing: a run whose task, "
        "method, budget and seed all occur on its data and model, but not together; each length by "
        "itself where there are several.",
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
    shown.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=10.0,
        metavar="SECONDS",
        help="shows it again and again (every 10 seconds) until every run is done",
    )
    given = parser.parse_args()
    try:
        if given.verify:
            verified(given.results)
        seen = study.scan(given.results)
        while given.watch is not None and any(s.state != "done" for s in seen):
            draw(report(seen, given.results))
            time.sleep(max(0.1, given.watch))
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
        for s in (s for s in seen if s.state in TO_DO):  # with none, not even an empty line
            print(s.command)
    else:
        if given.watch is not None and sys.stdout.isatty():
            _control("\x1b[H\x1b[J")
        print(*report(seen, given.results), sep="\n")
    # A study that is not whole is no failure: 3, so that a script tells the two apart.
    sys.exit(0 if all(s.state == "done" for s in seen) else 3)


def report(seen: list[Seen], results: Path) -> list[str]:
    """Returns the lines of the table, the runs at work, and what is left."""
    lines = [*table(seen).splitlines(), "", *details(seen)]
    lines.append(f"{counted(len(seen), 'run')}: {study.in_words(study.count(seen))}")
    if (left := time_left(seen)) is not None:
        lines.append(left)
    if any(s.state in TO_DO for s in seen):
        lines.append(f"what is left to do, as commands: {study.missing_command(results)}")
    return lines


def draw(lines: list[str]) -> None:
    """Shows lines on the whole terminal, in place of what stood there; elsewhere prints them."""
    if not sys.stdout.isatty():
        print(*lines, sep="\n", flush=True)
        return
    columns, rows = shutil.get_terminal_size()
    # The end says most: runs at work, counts, time left.
    if len(lines) >= rows:
        lines = [lines[0], f"… {len(lines) - rows + 2:,} more lines", *lines[3 - rows :]]
    shown = [printable(line) for line in lines]
    cut = [line if len(line) <= columns else f"{line[: columns - 1]}…" for line in shown]
    # In one piece, each line over the one before it: a screen that is cleared first would flicker.
    text = "".join(f"{line}\x1b[K\n" for line in cut)
    _control(f"\x1b[H{text}\x1b[J")


def _control(text: str) -> None:
    """Writes past the stream, which escapes control characters: these are our own."""
    sys.stdout.flush()
    with open(sys.stdout.fileno(), "wb", closefd=False) as screen:
        screen.write(text.encode(sys.stdout.encoding or "utf-8", "replace"))


if __name__ == "__main__":
    command(main)
