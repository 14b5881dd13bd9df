"""Verification that runs are as they were written: `python -m dora.status --verify`.

Every record is checked against its seal, every file against its record, every score against the
predictions. No model is loaded. A strange folder may hold pipes, links and lies: none is waited
for, followed or believed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dora.adapters.peft_config import stored_params
from dora.checked_files import open_own
from dora.data import npz
from dora.data.predictions import UNREADABLE
from dora.data.tasks import TASKS
from dora.errors import UserError, reason
from dora.plain import counted, cut, is_whole
from dora.records import artefacts, packed
from dora.records.about_method import trains_all
from dora.records.directories import directories
from dora.records.journals import JOURNALS, MOST_BYTES, events
from dora.records.place import place_of
from dora.records.rescore import disagreement
from dora.records.run_json import NotARecord, content, read_placed
from dora.records.schema import Run

# Bytes that are read at most. A checkpoint holds weights and two moments: 64 GiB is beyond any.
CHECKPOINT_AT_MOST = 1 << 36
HEADER_AT_MOST = 1 << 26
TRIES = 3  # checks of a run whose record changes meanwhile
_SEAL = hashlib.sha256().digest_size


@dataclass
class Found:
    """The outcome for one run.

    `verified`: the number of files with the sum that the record names. `checksums`: the record has
    checksums. `absent`: files of the run are not kept with it, such as weights left out of a
    commit.
    """

    verified: int = 0
    problems: list[str] = field(default_factory=list)
    checksums: bool = True
    absent: bool = False


def settled(folder: Path) -> Found | None:
    """Checks a run that may be begun anew or removed meanwhile; returns None for one that is gone.

    Problems found while its record changed may be those of two runs: it is checked again, at most
    `TRIES` times in all.
    """
    found = Found()
    for _ in range(TRIES):
        before = _record(folder)
        found = verify(folder)
        if not found.problems or _record(folder) == before:
            break
    return found if os.path.lexists(folder) else None


def _record(folder: Path) -> bytes | None:
    """Returns the bytes of run.json, None where they cannot be read."""
    try:
        return content(folder)
    except OSError:
        return None


def verify(folder: Path) -> Found:
    """Checks the run in `folder`, finished or not. Raises nothing, whatever lies there."""
    found = Found()
    try:
        run = read_placed(folder)
    except FileNotFoundError:
        found.problems.append("it has no run.json")
        return found
    except NotARecord as e:
        found.problems.append(f"run.json cannot be read ({e})")
        return found
    try:
        if run["status"] == "done":
            _finished(folder, run, found)
        else:
            found.checksums = artefacts.SEAL in run
            found.problems += _unfinished(folder)
    except OSError as e:
        found.problems.append(
            f"{Path(str(e.filename or folder)).name} cannot be read: {e.strerror or e}"
        )
    return found


def _finished(folder: Path, run: Run, found: Found) -> None:
    """Checks the files' sums against the record, then the files' content against its numbers."""
    there = [
        *artefacts.left(folder),
        *(name for name in JOURNALS if os.path.lexists(folder / name)),
    ]
    found.checksums = "files" in run
    if found.checksums:
        found.absent = bool(set(run["files"]) - set(there))
        wrong = {name: why for name in there if (why := artefacts.fault(folder, run, name))}
        # `shown`: a packed run's folder is a temporary one, which is nobody's to look at.
        found.problems += [f"{packed.shown(folder / name)} {why}" for name, why in wrong.items()]
        # The content of a damaged file is not looked at: its sum says enough.
        there = [name for name in there if name not in wrong]
        found.verified = len(there)
    else:
        # Such a record does not name its files. A whole model is kept only with keep_model=true.
        weights = set() if trains_all(run) else {artefacts.WEIGHTS}
        found.absent = not {artefacts.PREDICTIONS, *weights} <= set(there)
        # With a sum a journal needs no reading.
        for name in (name for name in JOURNALS if name in there):
            found.problems += _journal_problems(folder, name)
    if artefacts.PREDICTIONS in there:
        found.problems += _prediction_problems(folder, run)
    if artefacts.ADAPTER_WEIGHTS in there:
        found.problems += _adapter_problems(folder, run)


def _prediction_problems(folder: Path, run: Run) -> list[str]:
    try:
        npz.load(folder, outputs=TASKS[run["config"]["task"]].outputs)
        wrong = disagreement(folder, run)
    except UNREADABLE as e:
        return [f"predictions.npz cannot be read ({reason(e)})"]
    return [] if wrong is None else [wrong]


def _adapter_problems(folder: Path, run: Run) -> list[str]:
    name = artefacts.ADAPTER_WEIGHTS
    # Raises for a link or a pipe, which `stored_params` would follow or wait for.
    with open_own(folder, name):
        pass
    try:
        held = stored_params(folder / name)
        recorded = run["params"].get("in_peft_file") or run["params"]["adapter_end"]
    except (SafetensorError, UserError) as e:
        return [f"{name} cannot be read: {e}"]
    if held != recorded:
        return [f"{name} holds {held:,} parameters, run.json says {recorded:,}"]
    return []


def _journal_problems(folder: Path, name: str) -> list[str]:
    """Returns the first problem of a journal: a line that is no JSON object."""
    read = 0
    try:
        for _ in events(folder, name):
            read += 1
    except ValueError as e:
        return [f"line {read + 1} of {name} cannot be read ({e})"]
    return []


def _unfinished(folder: Path) -> Iterator[str]:
    """Yields damaged checkpoints, and journals that differ from those a checkpoint knew."""
    for path in sorted((folder / "checkpoint").glob("step-*.checkpoint")):
        try:
            for name, known in _known_journals(folder, f"checkpoint/{path.name}").items():
                if _begin(folder, name, known.get("bytes")) != known.get("sha256"):
                    yield f"{name} does not begin with the lines that {path.name} knows"
        except FileNotFoundError:
            continue  # a run at work has just replaced it
        except OSError as e:
            yield f"{path.name} cannot be read: {e.strerror}"
        except (ValueError, RecursionError) as e:  # nested too deep for the JSON reader
            yield f"{path.name} is damaged ({e})"


def _known_journals(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Returns the journals that a checkpoint's label knows: an object for each name.

    Read without `training.checkpoint`, which loads torch. Raises ValueError where the checkpoint's
    seal does not match the rest of the file, or its label is not that of a run.
    """
    with open_own(folder, name, CHECKPOINT_AT_MOST) as file:
        seal, length = file.read(_SEAL), file.read(8)
        header = file.read(min(int.from_bytes(length, "little"), HEADER_AT_MOST))
        digest = hashlib.sha256(length + header)
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.digest() != seal:
        raise ValueError("its checksum does not match")
    # A seal proves no more than that the file is whole: anybody can write one.
    label = _inside(_inside(json.loads(header), "__metadata__"), "label")
    if not isinstance(label, str):
        raise ValueError("its label is no text")
    journals = _inside(json.loads(label), "journals")
    return {journal: _object(known) for journal, known in _object(journals).items()}


def _inside(value: Any, key: str) -> Any:
    if key not in _object(value):
        raise ValueError(f"its header has no {key}")
    return value[key]


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"its header holds {cut(value)}, which must be an object")
    return value


def _begin(folder: Path, name: str, size: Any) -> str:
    """Returns the sha256 of a journal's first `size` bytes; "" if it has no such size."""
    # A label could name any file of the machine, and any size.
    if name not in JOURNALS:
        raise ValueError(f"{name!r:.40} is no journal")
    with open_own(folder, name, MOST_BYTES) as file:
        if not is_whole(size, 0, os.fstat(file.fileno()).st_size):
            return ""
        return hashlib.sha256(file.read(size)).hexdigest()


def report(results: Path) -> tuple[list[str], bool]:
    """Returns a line for each damaged run and one for all runs, and True if every run is sound."""
    checked = {place_of(folder): settled(folder) for folder in directories(results)}
    found = {at: f for at, f in checked.items() if f is not None}
    lines = [
        f"damaged   {'/'.join(at)}: {'; '.join(f.problems)}"
        for at, f in found.items()
        if f.problems
    ]
    damaged = len(lines)
    # A file that is not kept is no damage: studies are committed without weights.
    if absent := sum(f.absent for f in found.values()):
        lines.append(f"{counted(absent, 'run')} kept without weights or predictions")
    unchecked = sum(not f.checksums for f in found.values())
    files = sum(f.verified for f in found.values())
    lines.append(
        f"{counted(len(found), 'run')}, {counted(files, 'file')} verified, {damaged:,} damaged, "
        f"{unchecked:,} without checksums"
    )
    return lines, damaged == 0
