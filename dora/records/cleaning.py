"""Removal of files from a run directory: leftovers of killed processes, or everything of a run."""

from __future__ import annotations

import contextlib
from pathlib import Path

from dora.process import machine
from dora.records import artefacts
from dora.records.journals import JOURNALS
from dora.records.lock import NAME as LOCK
from dora.records.lock import held
from dora.records.run_json import NAME, read_done

FOLDERS = ("checkpoint", "adapter", "model", "tensorboard")


def tidy(folder: Path) -> None:
    """Removes the checkpoint of a run that is done, where a kill has left it.

    Does nothing while somebody is at work in the directory.
    """
    # The cheap test first: a sweep asks this of every run that it finds done.
    if (folder / "checkpoint").exists() and held(folder) is None and read_done(folder) is not None:
        machine.discard(folder / "checkpoint")


def sweep(folder: Path) -> None:
    """Removes the files that killed processes were writing in a run directory that is held.

    Nobody but the holder writes a run's own files, so every unfinished one is a dead process's.
    """
    # A link would lead the sweep into somebody else's folder.
    own = [inner for name in FOLDERS if not (inner := folder / name).is_symlink()]
    for left in (left for inner in (folder, *own) for left in inner.glob(".*.tmp")):
        # A user's own hidden files may match the pattern too.
        if machine.MARKED.search(left.name):
            machine.discard(left)
    # Other processes may be exporting the run, or looking at the file server's clock.
    for pattern in (".*.part", ".*.now"):
        machine.sweep(folder, pattern)


def remove_unbegun(folder: Path) -> None:
    """Removes a run directory that holds nothing, or nothing but a lock that names nobody.

    A full disk leaves one. It would look like a run that lost its record.
    """
    lock = folder / LOCK
    with contextlib.suppress(OSError):
        if not (folder / NAME).exists() and not (lock.exists() and lock.stat().st_size):
            lock.unlink(missing_ok=True)
            folder.rmdir()


def remove_run(folder: Path) -> None:
    """Removes everything that a run leaves, run.json last.

    A kill may come between any two removals. The checkpoint goes first, since alone it would be
    trained on; the record goes last, since it says that the directory is being cleared.
    """
    for name in (*FOLDERS, *JOURNALS, artefacts.PREDICTIONS, artefacts.WEIGHTS, NAME):
        machine.remove(folder / name)
