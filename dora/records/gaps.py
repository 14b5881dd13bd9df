"""The holes of a study: runs that its other runs imply, and the commands that would fill them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from dora.data.tasks import TASKS
from dora.package import CONF
from dora.records.directories import directories
from dora.records.place import Place
from dora.records.schema import Run
from dora.records.study import Seen, look
from dora.records.words import key_of, with_values

# Keys that one start of a run was given, which say nothing of another run: force=true would train
# it anew at each start, and the device may be another machine's.
_OF_ONE_START = ("force", "device")


def scan(results: Path, known: Mapping[Path, Run] | None = None) -> list[Seen]:
    """Returns every run under `results`/runs in path order, and after them the missing ones.

    Runs that newer ones have superseded are in that state. `known`: run.json by directory of runs
    that are not to be read again.
    """
    seen = [look(folder, (known or {}).get(folder)) for folder in directories(results)]
    newest: dict[tuple[str, ...], Seen] = {}
    for s in sorted(seen, key=_updated):
        if s.words is not None:
            newest[s.words] = s
    seen = [s if s.words is None else _superseded(s, newest[s.words]) for s in seen]
    return [*seen, *missing(seen)]


def _updated(s: Seen) -> str:
    # Times of records are in UTC and of one form, so that texts are in the order of times.
    return s.updated or ""


def _superseded(s: Seen, newest: Seen) -> Seen:
    """Returns a run, as superseded if it is unfinished and its words name a newer one.

    The words name another directory after the code, the arithmetic, the data or an experiment file
    has changed. Nobody then comes back to the old one, which no command names.
    """
    # One that diverged is an outcome, which tables name beside the mean of the others.
    if s.state in ("done", "running", "diverged") or _updated(s) >= _updated(newest):
        return s
    reason = (
        f"{s.state}; its command now names {newest.place.key}/{newest.place.seed} of "
        f"{newest.place.method}, which is newer: undo the change to go on with this one, "
        "or remove its directory"
    )
    return replace(s, state="superseded", reason=reason)


def missing(seen: Iterable[Seen]) -> list[Seen]:
    """Returns the holes of a study.

    On one data source and model, a run is missing whose task, row (method and budget) and seed all
    occur, but not together. A method without a budget is one row, whatever budgets others have.
    Where a task, row and seed occur at several lengths, the runs of each length are looked at alone.
    A hole's words are those of a run of its row, if possible of its task, with the hole's task and
    seed; None if they named an experiment that belongs to another task alone. A superseded run
    implies no others, and is not missing itself.
    """
    tables: dict[tuple[str, str], list[Seen]] = defaultdict(list)
    superseded: set[tuple[Place, str | None]] = set()
    for s in seen:
        if s.state == "superseded":
            superseded.add(_without_key(s))
        elif s.state != "broken":  # without a record nothing says that the study was to hold it
            tables[s.place.data, s.place.model].append(s)
    by_length = [group for _, runs in sorted(tables.items()) for group in _lengths(runs)]
    holes = [hole for runs in by_length for hole in _holes(runs)]
    return [hole for hole in holes if _without_key(hole) not in superseded]


def _without_key(run: Seen) -> tuple[Place, str | None]:
    """Returns a run's place but for its key, and its length: a hole's key may be unknown."""
    return run.place._replace(key=""), run.length


def _holes(runs: Sequence[Seen]) -> Iterator[Seen]:
    """Yields the holes among runs on the same data and model."""
    there = set(map(_cell, runs))
    tasks, rows, seeds = (sorted(set(column)) for column in zip(*there, strict=True))
    for cell in product(tasks, rows, sorted(seeds, key=lambda seed: int(seed[1:]))):
        if cell not in there:
            yield _hole(runs, *cell)


def _hole(runs: Sequence[Seen], task: str, row: tuple[str, str], seed: str) -> Seen:
    """Returns a missing run, which follows the example of a run of its row."""
    siblings = [r for r in runs if r.place.row == row]
    sibling = max(siblings, key=lambda r: (r.place.task == task, r.state == "done"))
    # The key hashes the task too, so it is known only from a run of that task.
    key = sibling.place.key if sibling.place.task == task else "?"
    words = for_task(sibling.words, sibling.place.task, task)
    words = None if words is None else with_values(words, seed=seed[1:])
    place = sibling.place._replace(task=task, key=key, seed=seed)
    return Seen(place, "missing", words=words, folder=sibling.folder, length=sibling.length)


def _cell(run: Seen) -> tuple[str, tuple[str, str], str]:
    """Returns a run's task, row (method and budget) and seed."""
    return run.place.task, run.place.row, run.place.seed


def _lengths(runs: Sequence[Seen]) -> list[list[Seen]]:
    """Returns the runs of each length, or all of them if no cell has runs of two lengths.

    Tasks and methods may have lengths of their own, as papers' settings do.
    """
    of_cell: dict[Any, set[str | None]] = defaultdict(set)
    groups: dict[str | None, list[Seen]] = defaultdict(list)
    for run in runs:
        of_cell[_cell(run)].add(run.length)
        groups[run.length].append(run)
    several = any(len(lengths) > 1 for lengths in of_cell.values())
    return list(groups.values()) if several else [list(runs)]


def for_task(words: Sequence[str] | None, old: str, new: str) -> tuple[str, ...] | None:
    """Returns the words typed for task `old` as they are typed for `new`, or None if unknown.

    `experiment=lora_roberta_base/sst2` holds a paper's settings for SST-2, so another task needs a
    file of its own. Words of one start alone are left out.
    """
    if words is None:
        return None
    words = tuple(w for w in words if key_of(w) not in _OF_ONE_START)
    experiment = next((w for w in words if w.startswith("experiment=")), "")
    family, _, task = experiment.rpartition("/")
    if task not in TASKS:
        return with_values(words, task=new)
    if old == new:
        return words
    # The package's experiments, and those of a --config-dir that was typed.
    other = f"{family}/{new}"
    own = [Path(w.partition("=")[2]) for w in words if w.startswith("--config-dir=")]
    file = Path("experiment", f"{other.removeprefix('experiment=')}.yaml")
    if task != old or not any((folder / file).is_file() for folder in (CONF, *own)):
        return None
    return tuple(other if w == experiment else w for w in words if not w.startswith("task="))
