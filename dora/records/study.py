"""Runs seen from outside: the state of each from its directory alone, what is missing, and what to type.

Knows no model and no torch, so that looking at hundreds of runs takes a moment.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from dora import CONF
from dora.data.tasks import TASKS
from dora.plain import printable
from dora.records.lock import held
from dora.records.record import seconds_since
from dora.records.run_json import NotARecord, Run, read_placed
from dora.records.words import Foreign, as_command, typed

# In the order in which they are shown. waiting: planned by a sweep and not begun. stale: its process is gone
# without a word. broken: run.json cannot be read. missing: every other run of its row and column is there.
STATES = (
    "running",
    "waiting",
    "stopped",
    "stale",
    "failed",
    "diverged",
    "broken",
    "missing",
    "done",
)
_LONGEST_S = 10 * 365 * 86_400.0  # no estimate is worth more
_PARTS = ("data", "task", "model", "method", "budget", "key", "seed")


@dataclass(frozen=True)
class Seen:
    """One run from outside. `words`: what its record says was typed after `python -m dora.run`, None where nobody knows;
    `command` holds them only where a run may have them. `folder`: its directory, of a missing one
    that of the run whose words it has.

    `left_s`: estimated seconds left of a running one. `score`: of a finished one, by metric. `degenerate`: why its
    predictions say nothing, None where they do.
    """

    place: tuple[str, ...]
    state: str
    reason: str | None = None
    step: int | None = None
    total_steps: int | None = None
    left_s: float | None = None
    words: tuple[str, ...] | None = None
    score: dict[str, float] | None = None
    degenerate: str | None = None
    folder: Path | None = None

    @property
    def name(self) -> str:
        """Its place under results/runs, on one line whatever its folders are called."""
        return printable("/".join(self.place))

    @property
    def command(self) -> str:
        """What runs, resumes or repeats it."""
        if self.words is None:
            return f"# {self.name}: no run.json says what to type for it"
        try:
            return as_command(typed(self.words, self.folder))
        except Foreign as e:
            return f"# {self.name}: {e}"

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        named = dict(zip(_PARTS, self.place, strict=True))
        rest = {k: v for k, v in asdict(self).items() if k not in ("place", "folder")}
        return {**named, **rest, "seed": int(named["seed"][1:]), "command": self.command}


def directories(results: Path) -> list[Path]:
    """Every run directory under `results`/runs in path order; a copy put beside one (`s1_old`) is none."""
    level = [results / "runs"]
    for _ in _PARTS:
        level = list(_inside(level))
    return sorted(path for path in level if re.fullmatch("s[0-9]+", path.name))


def _inside(folders: Iterable[Path]) -> Iterator[Path]:
    """The folders in these, each once: links that lead in circles would make as many paths as one has patience for."""
    entries: list[os.DirEntry[str]] = []
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as found:
            entries += found
    seen = set()
    # A folder itself comes before links to it.
    for entry in sorted(entries, key=lambda e: (e.is_symlink(), e.path)):
        with contextlib.suppress(OSError):  # a link to nowhere, or to itself
            about = entry.stat()
            if stat.S_ISDIR(about.st_mode) and (about.st_dev, about.st_ino) not in seen:
                seen.add((about.st_dev, about.st_ino))
                yield Path(entry.path)


def look(folder: Path, run: Run | None = None) -> Seen:
    """The state of the run in `folder`, which may still be trained by someone. `run`: its run.json, where it is read."""
    here = place(folder)
    try:
        run = read_placed(folder) if run is None else run
    except FileNotFoundError:
        return Seen(here, "broken", "it has no run.json")
    except NotARecord as e:
        return Seen(here, "broken", f"run.json cannot be read ({e})")
    state, reason = run["status"], run.get("reason")
    progress = run.get("progress") or {}
    step, total = progress.get("step"), progress.get("total_steps")
    left = None
    if state == "running" and (holder := held(folder)) is None:
        state, reason = "stale", "its process is gone; the command resumes it"
    elif state == "running":
        reason = holder
        updated = run.get("times", {}).get("updated")
        if step and updated and progress.get("seconds"):
            left = progress["seconds"] / step * (total - step) - seconds_since(updated)
    best = (run.get("results") or {}).get("best") or {}
    return Seen(
        here,
        state,
        reason,
        step,
        total,
        None if left is None or left > _LONGEST_S else max(0.0, round(left, 1)),
        None if run.get("words") is None else tuple(run["words"]),
        {k: v for k, v in best.items() if isinstance(v, float)} or None,
        best.get("degenerate"),
        folder,
    )


def scan(results: Path, known: Mapping[Path, Run] | None = None) -> list[Seen]:
    """Every run under `results`/runs in path order, and after them the missing ones.

    `known`: the run.json of finished runs by their directories, which are not read again.
    """
    seen = [look(folder, (known or {}).get(folder)) for folder in directories(results)]
    return [*seen, *missing(seen)]


def missing(seen: Iterable[Seen]) -> list[Seen]:
    """The holes: runs whose task, row (method and budget) and seed all occur on a data source and model, but not together.

    Full fine-tuning is a row of its own, whatever budgets the others have. What was typed for a hole is what
    was typed for a run of its row, of its task where there is one, with the task and seed of the hole; None where that
    named an experiment which is another task's own.
    """
    tables: dict[tuple[str, str], list[Seen]] = defaultdict(list)
    for s in seen:
        if (
            s.state != "broken"
        ):  # a folder without a record says nothing of what a study was to hold
            tables[s.place[0], s.place[2]].append(s)
    found = []
    for (data, model), runs in sorted(tables.items()):
        there = {(r.place[1], r.place[3:5], r.place[6]): r for r in runs}
        tasks, rows, seeds = (sorted(set(column)) for column in zip(*there, strict=True))
        for task, row, seed in product(tasks, rows, sorted(seeds, key=lambda s: int(s[1:]))):
            if (task, row, seed) not in there:
                siblings = [r for r in runs if r.place[3:5] == row]
                sibling = max(siblings, key=lambda r: (r.place[1] == task, r.state == "done"))
                key = (
                    sibling.place[5] if sibling.place[1] == task else "?"
                )  # differs from task to task
                words = with_keys(for_task(sibling.words, sibling.place[1], task), seed=seed[1:])
                here = (data, task, model, *row, key, seed)
                found.append(Seen(here, "missing", words=words, folder=sibling.folder))
    return found


def for_task(words: Sequence[str] | None, old: str, new: str) -> tuple[str, ...] | None:
    """What was typed for a task as it is typed for another; None where nobody knows.

    `experiment=lora_roberta_base/sst2` holds a paper's settings for SST-2, so that another task needs its own file.
    """
    experiment = next((w for w in words or () if w.startswith("experiment=")), "")
    family, _, task = experiment.rpartition("/")
    if words is None or task not in TASKS:
        return with_keys(words, task=new)
    if old == new:
        return tuple(words)
    other = f"{family}/{new}"
    own = [Path(w.partition("=")[2]) for w in words if w.startswith("--config-dir=")]
    file = Path("experiment", f"{other.removeprefix('experiment=')}.yaml")
    if task != old or not any((folder / file).is_file() for folder in (CONF, *own)):
        return None
    return tuple(other if w == experiment else w for w in words if not w.startswith("task="))


def with_keys(words: Sequence[str] | None, **values: str) -> tuple[str, ...] | None:
    """`words` with other values of some keys; each key once, at the end where it was not there."""
    if words is None:
        return None
    rest = [w for w in words if w.split("=")[0] not in values]
    return *rest, *(f"{key}={value}" for key, value in values.items())


def place(folder: Path) -> tuple[str, ...]:
    """A run directory's place under results/runs: data, task, model, method, budget, key, seed."""
    return folder.parts[-len(_PARTS) :]


def missing_command(results: Path) -> str:
    """What prints the commands of all that is left to do under `results`."""
    return shlex.join(["python", "-m", "dora.status", *_where(results), "--missing"])


def tables_command(results: Path) -> str:
    """What prints and writes the tables of the runs under `results`."""
    return shlex.join(["python", "-m", "dora.tables", *_where(results)])


def _where(results: Path) -> list[str]:
    return [] if results == Path("results") else ["--results", str(results)]


def count(seen: Iterable[Seen]) -> dict[str, int]:
    """How many there are in each state that occurs."""
    states = [s.state for s in seen]
    return {state: states.count(state) for state in STATES if state in states}


def runs_in_words(number: int) -> str:
    """`1 run`, `1,040 runs`."""
    return f"{number:,} run{'s' * (number != 1)}"


def in_words(numbers: dict[str, int]) -> str:
    """`3 done, 1 failed`, finished ones first."""
    return ", ".join(f"{n:,} {state}" for state, n in reversed(numbers.items())) or "none"


def duration(seconds: float) -> str:
    """`2 h 05 min`, `12 min`, `40 s`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
