"""Runs that a sweep is going to train, noted before its first one begins.

With these notes `python -m dora.status` shows how much of a sweep is still to come.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dora.files import write_atomic
from dora.records import artefacts
from dora.records.record import now, writable
from dora.records.schema import SCHEMA


def note_planned(
    folder: Path, words: Sequence[str], config: dict[str, Any], auto_precision: bool = False
) -> None:
    """Notes in an empty run directory that a sweep is going to train this run.

    `auto_precision`: the precision in `config` is the one that `precision=auto` stands for. A
    directory with a record is left as it is.
    """
    waiting = {
        "schema": SCHEMA,
        "status": "waiting",
        "reason": None,
        "config": config,
        "words": list(words),
        **({"auto_precision": True} if auto_precision else {}),
        "times": {"planned": now()},
    }
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "run.json").exists():
            try:
                write_atomic(folder / "run.json", artefacts.sealed(waiting))
            except FileNotFoundError:
                # Another launch has just begun the run, and swept our half-written file away.
                pass
            except OSError:
                # An empty directory would look like a run that lost its record. One that is not
                # empty stays: another process has begun the run.
                with contextlib.suppress(OSError):
                    folder.rmdir()
                raise
