"""Whether what runs left is what they wrote: `python -m dora.status --verify`.

Every record against its seal, every file against its record, every score against the predictions. Nothing is loaded,
and nothing that a strange folder may hold is waited for, followed or believed.
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
from dora.data import npz
from dora.data.predictions import UNREADABLE
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.files import open_own
from dora.records import artefacts, study
from dora.records.journals import events
from dora.records.record import JOURNALS
from dora.records.rescore import disagreement
from dora.records.run_json import NotARecord, read_placed

JOURNAL_AT_MOST = 1 << 30
CHECKPOINT_AT_MOST = 1 << 36
HEADER_AT_MOST = 1 << 26
_SEAL = hashlib.sha256().digest_size
# What reading a record that is another shape than a run's raises.
_STRANGE = (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


@dataclass
class Found:
    """What there is to say of one run. `verified`: its files with the sum that its record names.

    `checksums`: whether its record has any. `absent`: files that it had and that are not kept with it.
    """

    verified: int = 0
    problems: list[str] = field(default_factory=list)
    checksums: bool = True
    absent: bool = False


def verify(folder: Path) -> Found:
    """Looks at the run in `folder`, finished or not. Raises nothing, whatever lies there."""
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


def _finished(folder: Path, run: dict[str, Any], found: Found) -> None:
    """Files against the record, then what the files say against what it says."""
    there = [
        *artefacts.left(folder),
        *(name for name in JOURNALS if os.path.lexists(folder / name)),
    ]
    found.checksums = "files" in run
    if found.checksums:
        found.absent = bool(set(run["files"]) - set(there))
        wrong = {name: artefacts.problem(folder, run, name) for name in there}
        found.problems += [text for text in wrong.values() if text is not None]
        found.verified = sum(text is None for text in wrong.values())
        there = [name for name in there if wrong[name] is None]
    else:
        weights = {artefacts.WEIGHTS} if run["config"]["method"]["name"] != "full" else set()
        found.absent = not {artefacts.PREDICTIONS, *weights} <= set(there)
        for name in (name for name in JOURNALS if name in there):
            found.problems += _journal_problems(folder, name)
    if artefacts.PREDICTIONS in there:
        found.problems += _prediction_problems(folder, run)
    if artefacts.ADAPTER[0] in there:
        found.problems += _adapter_problems(folder, run)


def _prediction_problems(folder: Path, run: dict[str, Any]) -> list[str]:
    try:
        npz.load(folder, outputs=TASKS[run["config"]["task"]].outputs)
        wrong = disagreement(folder, run)
    except UNREADABLE as e:
        return [f"predictions.npz cannot be read ({type(e).__name__}: {e})"]
    return [] if wrong is None else [wrong]


def _adapter_problems(folder: Path, run: dict[str, Any]) -> list[str]:
    name = artefacts.ADAPTER[0]
    with open_own(folder, name):  # a file, and no link
        pass
    try:
        held, recorded = stored_params(folder / name), run["params"]["adapter_end"]
    except (SafetensorError, UserError) as e:
        return [f"{name} cannot be read: {e}"]
    return (
        []
        if held == recorded
        else [f"{name} holds {held:,} parameters, run.json says {recorded:,}"]
    )


def _journal_problems(folder: Path, name: str) -> list[str]:
    """The first line of a journal that is no JSON."""
    read = 0
    try:
        for _ in events(folder, name):
            read += 1
    except ValueError as e:
        return [f"line {read + 1} of {name} cannot be read ({e})"]
    return []


def _unfinished(folder: Path) -> Iterator[str]:
    """The checkpoints that are not as they were written, and journals that are not as a checkpoint knew them."""
    for path in sorted((folder / "checkpoint").glob("step-*.checkpoint")):
        try:
            for name, sealed in _label(folder, f"checkpoint/{path.name}")["journals"].items():
                if _begin(folder, name, sealed["bytes"]) != sealed["sha256"]:
                    yield f"{name} does not begin with the lines that {path.name} knows"
        except FileNotFoundError:
            continue  # a run at work has just replaced it
        except OSError as e:
            yield f"{path.name} cannot be read: {e.strerror}"
        except _STRANGE as e:
            yield f"{path.name} is damaged ({e})"


def _label(folder: Path, name: str) -> dict[str, Any]:
    """The label of a checkpoint. Raises ValueError, or another of _STRANGE, where its seal is not that of the rest."""
    with open_own(folder, name, CHECKPOINT_AT_MOST) as file:
        seal, length = file.read(_SEAL), file.read(8)
        header = file.read(min(int.from_bytes(length, "little"), HEADER_AT_MOST))
        digest = hashlib.sha256(length + header)
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.digest() != seal:
        raise ValueError("its checksum does not match")
    label: dict[str, Any] = json.loads(json.loads(header)["__metadata__"]["label"])
    return label


def _begin(folder: Path, name: str, size: int) -> str:
    """The sha256 of a journal's first `size` bytes."""
    if name not in JOURNALS:
        raise ValueError(f"{name!r:.40} is no journal")
    with open_own(folder, name, JOURNAL_AT_MOST) as file:
        if type(size) is not int or not 0 <= size <= os.fstat(file.fileno()).st_size:
            return ""
        return hashlib.sha256(file.read(size)).hexdigest()


def report(results: Path) -> tuple[list[str], bool]:
    """A line for each damaged run and one for all of them; whether every one is sound."""
    found = {study.place(folder): verify(folder) for folder in study.directories(results)}
    lines = [
        f"damaged   {'/'.join(at)}: {'; '.join(f.problems)}"
        for at, f in found.items()
        if f.problems
    ]
    damaged = len(lines)
    if absent := sum(f.absent for f in found.values()):
        lines.append(f"{study.runs_in_words(absent)} kept without weights or predictions")
    unchecked = sum(not f.checksums for f in found.values())
    files = sum(f.verified for f in found.values())
    lines.append(
        f"{study.runs_in_words(len(found))}, {files:,} file{'s' * (files != 1)} verified, {damaged:,} damaged, "
        f"{unchecked:,} without checksums"
    )
    return lines, damaged == 0
