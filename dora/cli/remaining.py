"""The runs that a sweep has planned, and how long the rest of them will take.

A run may train in another process, or on another machine, than its sweep. So the sweep notes its
runs in a file, and names the file in the environment of whatever it starts.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dora.files import write_atomic
from dora.process import machine
from dora.records import estimate, study
from dora.records.place import place_of

VARIABLE = "DORA_GLUE_SWEEP"


@contextlib.contextmanager
def noted(
    folder: Path, runs: Iterable[Path], pending: Sequence[Path], what: str = "sweep"
) -> Iterator[None]:
    """Notes a sweep's runs in `folder` while the context is open.

    `runs`: the directories of all of them; `pending`: of those to be trained, in their order.
    `what`: the name of the whole in the lines.
    """
    # Notes that killed sweeps left, and temporary files of such notes.
    machine.sweep(folder, "*runs.*.tmp")
    # One name for each process: workers may outlive a sweep and take the next one's runs.
    file = folder.absolute() / f"runs.{machine.mark()}.tmp"
    text = {"what": what, "runs": [str(r) for r in runs], "pending": [str(p) for p in pending]}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(text))
    except OSError:  # no estimate, then: the runs say for themselves what is wrong with the disk
        yield
        return
    os.environ[VARIABLE] = str(file)
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        machine.discard(file)


def planned(folder: Path) -> bool:
    """Tells whether a sweep that noted its runs is going to train the one of this directory.

    True where no such note can be read, as by a cluster's job whose sweep was killed.
    """
    note = _note()
    # By places: of a packed run to predict more rows for, the note names a temporary folder.
    return note is None or place_of(folder) in [place_of(Path(name)) for name in note["pending"]]


def line(folder: Path) -> str | None:
    """Returns a line on the work that is left of the sweep when the run in `folder` has ended.

    Returns None for a run outside of a sweep, for the last one, and where no run that has ended
    tells how long the others take.
    """
    note = _note()
    if note is None or str(folder) not in note["pending"]:
        return None
    seen = {name: study.look(Path(name)) for name in note["runs"]}
    later = [seen[name] for name in note["pending"][note["pending"].index(str(folder)) + 1 :]]
    waiting = [s for s in later if s.state not in ("done", "running")]
    running = [s for s in seen.values() if s.state == "running"]
    # This process takes one of those that wait.
    at_once = len(running) + bool(waiting)
    left = estimate.left_of([*running, *waiting], seen.values(), at_once)
    return None if left is None else f"left of the {note['what']}: {estimate.in_words(left)}"


def _note() -> dict[str, Any] | None:
    """Returns what `noted` wrote for the sweep of this process, or None if no note can be read."""
    with contextlib.suppress(KeyError, OSError, ValueError):
        note: dict[str, Any] = json.loads(Path(os.environ[VARIABLE]).read_text())
        return note
    return None
