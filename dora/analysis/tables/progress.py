"""A study seen while it trains: the table of `python -m dora.status`, and what is left."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from dora.adapters.budget import in_words
from dora.analysis.rows import budget_order, length_order
from dora.analysis.tables.layout import Grid, plain
from dora.analysis.view import View
from dora.data.tasks import TASKS
from dora.plain import counted, duration, printable
from dora.records import estimate, study
from dora.records.study import Seen

# States of runs that have to be started, or started again, to complete the study. A running one is
# somebody's already.
TO_DO = ("missing", "waiting", "stopped", "stale", "failed", "diverged", "broken")


def report(seen: list[Seen], results: Path) -> list[str]:
    """Returns the lines of the table, the runs at work, and what is left."""
    lines = [*table(seen).splitlines(), "", *_details(seen)]
    lines.append(f"{counted(len(seen), 'run')}: {study.in_words(study.count(seen))}")
    to_do = any(s.state in TO_DO for s in seen)
    if (left := estimate.left(seen, TO_DO)) is not None:
        lines.append(f"left: {estimate.in_words(left)}")
    elif to_do:
        lines.append("left: not known, since no run like these is done")
    if to_do:
        lines.append(
            f"what is left to do, as commands: {study.command_over(results, 'status', '--missing')}"
        )
    return lines


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
        shown = [str(n) if n else "" for n in numbers]
        named = [length] if several else []
        rows.append([*place[:4], in_words(place[4]), *named, *shown, _score(runs)])
    named = ["length"] if several else []
    head = ["data", "task", "model", "method", "budget", *named, *states, "best score"]
    return plain(Grid("", head, rows))


def _order(cell: tuple[tuple[str, ...], str]) -> tuple[Any, ...]:
    """Returns the key by which lines are ordered: by place, budget and length."""
    place, length = cell
    return place[:4], budget_order(place[4]), length_order(length)


def _score(seen: list[Seen]) -> str:
    """Returns the mean best score of the finished runs in points; empty if there is none.

    Runs with unequal settings, as in a search, have the range of their means: `12.5 to 33.5`.
    """
    task = TASKS.get(seen[0].place.task)
    if task is None:  # a folder of somebody else's
        return ""
    view = View()  # scores are counted as in the tables
    found: dict[str, list[float]] = defaultdict(list)
    for s in (s for s in seen if s.state == "done"):
        value = view.value_of({**(s.score or {}), "degenerate": s.degenerate}, task.name)
        if value is not None:
            found[s.place.key].append(value)
    means = [f"{mean:.1f}" for mean in sorted(map(statistics.mean, found.values()))]
    return " to ".join(dict.fromkeys((means[0], means[-1]))) if means else ""


def _details(seen: list[Seen]) -> list[str]:
    """Returns a line for each run at work, and for each that ended without a result."""
    lines = []
    for s in seen:
        if s.state == "running":
            step = _at_step(s) or "not at its first checkpoint"
            if s.rounds is not None:
                step += f" (round {s.rounds[0]:,} of {s.rounds[1]:,})"
            speed = f", {s.step / s.seconds:.2g} steps/s" if s.step and s.seconds else ""
            left = "" if s.left_s is None else f", about {duration(s.left_s)} left"
            lines.append(f"running   {s.name}: {step}{speed}{left}, {printable(s.reason)}")
        elif s.state in ("stopped", "stale", "failed", "diverged", "broken", "superseded"):
            # A killed process could not say how far it was.
            step = f"{_at_step(s)}, " if s.state == "stale" and s.step else ""
            lines.append(f"{s.state:<9} {s.name}: {step}{study.first_line(s.state, s.reason)}")
    return lines


def _at_step(seen: Seen) -> str | None:
    """Returns `step 30 of 90`, of the last checkpoint, or None before the first."""
    return None if seen.step is None else f"step {seen.step:,} of {seen.total_steps:,}"
