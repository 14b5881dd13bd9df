"""Where the runs of a study lie: in directories of their own, or packed into one file."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from dora.records import packed
from dora.records.place import RUNS, Place, place_of
from dora.records.record import TRIES
from dora.records.run_json import NotARecord, read, read_placed


def directories(results: Path) -> list[Path]:
    """Returns every run directory under `results`/runs, ordered by its place there.

    A copy that somebody put beside a run (`s1_old`) is not one. The runs that `dora.collect` has
    packed into `results` count as directories; of a run that is in both, its own directory counts
    if the run was begun there.
    """
    level = [results / RUNS]
    for _ in Place._fields:
        level = list(_inside(level))
    found = {place_of(path): path for path in packed.directories(results)}
    for path in level:
        here = place_of(path)
        if re.fullmatch("s[0-9]+", path.name) and (here not in found or _begun(path)):
            found[here] = path
    return [found[here] for here in sorted(found)]


def _begun(folder: Path) -> bool:
    """Returns True where a run was begun in its directory, as far as its record tells.

    A sweep notes runs there as waiting, and weights may lie there without a record: neither hides
    what a packed record holds.
    """
    try:
        return bool(read(folder)["status"] != "waiting")
    except FileNotFoundError:
        return False
    except NotARecord:
        return True


def directory(folder: Path, diverged: int = TRIES) -> Path:
    """Returns the directory that holds a run's record: `folder`, its own, if it was begun there.

    Else the one that is unpacked from results/runs.jsonl.gz, if the run has ended there: whoever
    has a study's packed records goes on with the study, and trains none of its runs anew.
    `diverged`: how often a run that diverged must have done so to count as ended. Raises UserError
    where the file is damaged.
    """
    if not _begun(folder):
        for unpacked in packed.directories(folder.parents[len(Place._fields)]):
            if place_of(unpacked) == place_of(folder) and _ended(unpacked, diverged):
                return unpacked
    return folder


def _ended(folder: Path, diverged: int) -> bool:
    """Returns True for the record of a run that has ended, if it lies at the run's place."""
    try:
        run = read_placed(folder)
    except (FileNotFoundError, NotARecord):
        return False
    lost = run["status"] == "diverged" and run.get("divergences", 0) >= diverged
    return lost or bool(run["status"] == "done")


def _inside(folders: Iterable[Path]) -> Iterator[Path]:
    """Yields the folders inside these, each once however many links lead to it.

    Links in circles would make paths without end: the depth is bounded, their number is not.
    """
    entries: list[os.DirEntry[str]] = []
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as found:
            entries += found
    seen = set()
    # Links last, so that a folder is found under its own name and not that of a link to it.
    for entry in sorted(entries, key=lambda e: (e.is_symlink(), e.path)):
        with contextlib.suppress(OSError):  # a link to nowhere, or to itself
            about = entry.stat()
            if stat.S_ISDIR(about.st_mode) and (about.st_dev, about.st_ino) not in seen:
                seen.add((about.st_dev, about.st_ino))
                yield Path(entry.path)
