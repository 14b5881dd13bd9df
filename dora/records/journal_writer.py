"""Writing of a run's journals: lines that are appended, and sums by which a checkpoint knows them.

A run that is resumed cuts its journals back to the lines that the checkpoint knew, and goes on from
there: in the end they are byte for byte those of a run that never stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from dora.files import named, sync
from dora.records.journals import JOURNALS


def journal_that_differs(folder: Path, sealed: dict[str, Any]) -> str | None:
    """Returns which journal no longer begins with the lines of `sealed`, or None if all do.

    `sealed`: size in bytes and sha256 by journal, as `JournalWriter.sync` gave them.
    """
    for name, known in sealed.items():
        path = folder / name
        begin = path.read_bytes()[: known["bytes"]] if path.exists() else b""
        whole = len(begin) == known["bytes"]
        if not whole or hashlib.sha256(begin).hexdigest() != known["sha256"]:
            return f"{name} is not as it was when the checkpoint was written"
    return None


class JournalWriter:
    """The journals of one run directory, open for appending between `start` and `close`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Any] = {}
        # A running sha256 of each journal: to hash it anew at every checkpoint would read it anew.
        self._sums: dict[str, Any] = {}

    def start(self, sealed: dict[str, Any]) -> None:
        """Opens every journal, cut back to the size in `sealed`; to nothing if it is not there."""
        for name in JOURNALS:
            path = self._folder / name
            path.touch()
            os.truncate(path, sealed[name]["bytes"] if name in sealed else 0)
            self._sums[name] = hashlib.sha256(path.read_bytes())
            self._files[name] = path.open("ab")

    def append(self, name: str, event: dict[str, Any]) -> None:
        """Appends one line to a journal. Raises OSError with its name, and ValueError for NaN."""
        line = (json.dumps(event, allow_nan=False) + "\n").encode()
        with named(self._folder / name):
            self._files[name].write(line)
            self._files[name].flush()  # for whoever watches; to the disk only at a checkpoint
        self._sums[name].update(line)

    def sync(self) -> dict[str, Any]:
        """Writes every journal to the disk; returns size in bytes and sha256 by journal."""
        sealed = {}
        for name, file in self._files.items():
            with named(self._folder / name):
                sync(file)
            sealed[name] = {"bytes": file.tell(), "sha256": self._sums[name].hexdigest()}
        return sealed

    def close(self) -> None:
        """Closes the files. Lines that a full disk did not take are lost."""
        for file in self._files.values():
            # Resuming cuts the journals back to the last checkpoint anyway.
            with contextlib.suppress(OSError):
                file.close()
        self._files = {}
