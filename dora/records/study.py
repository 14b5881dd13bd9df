"""A study seen from outside: the state of each run, and the commands to type.

Everything is read from the run directories. Knows no model and no torch, so that looking at
hundreds of runs takes a moment.
"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dora.configuration import search_file
from dora.plain import printable
from dora.records.lock import held
from dora.records.moved import at_home
from dora.records.place import Place, place_of
from dora.records.run_json import NotARecord, read_placed
from dora.records.schema import Run
from dora.records.words import Foreign, as_command, typed

# In the order in which they are shown. waiting: planned by a sweep and not begun. stale: its
# process died without writing so. broken: run.json cannot be read. missing: no directory, though
# other runs have its task, its row and its seed. superseded: left unfinished, and its command now
# names another run, which is newer (`dora.records.gaps`).
STATES = (
    "running",
    "waiting",
    "stopped",
    "stale",
    "failed",
    "diverged",
    "broken",
    "missing",
    "superseded",
    "done",
)
NOTHING_LEFT = ("done", "superseded")  # states of runs for which there is nothing more to do
_LONGEST_S = 10 * 365 * 86_400.0  # a longer estimate is worth nothing


@dataclass(frozen=True)
class Seen:
    """One run seen from outside.

    `words`: the words to type after `python -m dora.run`, by its record; None if unknown. They are
    not checked: `command` holds them only if a run may have them. `folder`: its directory; for a
    missing run, that of the run whose words it has. `total_steps`: of the whole run, None where its
    record does not tell them. `left_s`: estimated seconds left of a running run. `seconds`: of
    training so far, or in all. `score`: best scores of a finished run, by metric. `degenerate`: why
    its predictions say nothing, or None. `rounds`: of a federated run, (rounds done, all of them).
    `length`: as it was given, such as "600 steps"; None without a record. `updated`: when its record
    was last written, or the run planned; None if unknown.
    """

    place: Place
    state: str
    reason: str | None = None
    step: int | None = None
    total_steps: int | None = None
    left_s: float | None = None
    seconds: float | None = None
    words: tuple[str, ...] | None = None
    score: dict[str, float] | None = None
    degenerate: str | None = None
    folder: Path | None = None
    rounds: tuple[int, int] | None = None
    length: str | None = None
    updated: str | None = None

    @property
    def name(self) -> str:
        """Returns its place under results/runs, on one line whatever its folders are called."""
        return printable("/".join(self.place))

    @property
    def command(self) -> str:
        """Returns the command that runs, resumes or repeats it, or a comment that says why not."""
        # A comment, so that a shell can run the lines of `--missing`.
        if self.words is None:
            return f"# {self.name}: no run.json says what to type for it"
        try:
            return as_command(typed(self.words, self.folder))
        except Foreign as e:
            return f"# {self.name}: {e}"

    def as_json(self) -> dict[str, Any]:
        """Returns the object that `dora.status --json` prints for it."""
        named = self.place._asdict()
        rest = {k: v for k, v in asdict(self).items() if k not in ("place", "folder")}
        return {**named, **rest, "seed": int(named["seed"][1:]), "command": self.command}


def look(folder: Path, run: Run | None = None) -> Seen:
    """Returns the state of the run in `folder`, which may be in training.

    `run`: its run.json, if that has been read already.
    """
    here = place_of(folder)
    try:
        run = read_placed(folder) if run is None else run
    except FileNotFoundError:
        return Seen(here, "broken", "it has no run.json")
    except NotARecord as e:
        return Seen(here, "broken", f"run.json cannot be read ({e})")
    state, reason = run["status"], run.get("reason")
    progress, times = run.get("progress") or {}, run.get("times") or {}
    left = None
    # The record says "running" until the process that wrote it says otherwise; the lock tells
    # whether that process still lives.
    if state == "running" and (holder := held(folder)) is None:
        state, reason = "stale", "its process is gone; the command resumes it"
    elif state == "running":
        reason = holder
        left = _seconds_left(progress, times.get("updated"))
    best = (run.get("results") or {}).get("best") or {}
    return Seen(
        here,
        state,
        reason,
        step=progress.get("step"),
        total_steps=progress.get("total_steps", _planned_steps(run)),
        left_s=left,
        seconds=run.get("train_s") if state == "done" else progress.get("seconds"),
        words=at_home(run, folder),
        # Metrics are floats; the step and the reason of a degenerate result are not.
        score={k: v for k, v in best.items() if isinstance(v, float)} or None,
        degenerate=best.get("degenerate"),
        folder=folder,
        rounds=_rounds(run.get("federation"), progress.get("step")),
        length=search_file.length(run.get("config") or {}),
        updated=times.get("updated", times.get("planned")),
    )


def _planned_steps(run: Run) -> int | None:
    """Returns the steps of a run without progress; None if it waits and its data decide them."""
    # A waiting run's record is its configuration alone.
    steps = run.get("total_steps", (run.get("config") or {}).get("max_steps"))
    return steps if isinstance(steps, int) else None


def _rounds(federation: Mapping[str, Any] | None, step: int | None) -> tuple[int, int] | None:
    """Returns (rounds done, all of them) of a federated run at this step, None of another run."""
    if federation is None or step is None:
        return None
    each = federation["selected"] * federation["local_steps"]
    return step // max(1, each), federation["rounds"]


def _seconds_left(progress: Mapping[str, Any], updated: str | None) -> float | None:
    """Returns the estimated seconds left of a running run, or None if nothing can be told yet."""
    step, seconds = progress.get("step"), progress.get("seconds")
    if not step or not seconds or updated is None:
        return None
    now = datetime.datetime.now(datetime.timezone.utc)
    since = (now - datetime.datetime.fromisoformat(updated)).total_seconds()
    left = seconds / step * (progress["total_steps"] - step) - since
    return None if left > _LONGEST_S else max(0.0, round(left, 1))


def first_line(state: str, reason: str | None) -> str:
    """Returns the first line of the reason why a run is in `state`, such as failed."""
    if state == "waiting" and reason is None:
        return "it has not begun"
    first = next(iter((reason or "").splitlines()), "no reason given")
    # A record's reason begins with its status, which every line about the run shows already.
    return printable(first.removeprefix(f"{state}: "))


def first_command(results: Path) -> str:
    """Returns a command that trains a first run under `results`."""
    where = [] if results == Path("results") else [f"results={results}"]
    return as_command(["task=sst2", *where])


def command_over(results: Path, name: str, *options: str) -> str:
    """Returns the command `python -m dora.NAME` over the runs under `results`."""
    where = [] if results == Path("results") else ["--results", str(results)]
    return shlex.join(["python", "-m", f"dora.{name}", *where, *options])


def count(seen: Iterable[Seen]) -> dict[str, int]:
    """Returns the number of runs in each state that occurs."""
    states = [s.state for s in seen]
    return {state: states.count(state) for state in STATES if state in states}


def in_words(numbers: dict[str, int]) -> str:
    """Returns `3 done, 1 failed`: counts by state, finished runs first."""
    return ", ".join(f"{n:,} {state}" for state, n in reversed(numbers.items())) or "none"
