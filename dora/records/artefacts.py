"""Checksums of everything that a run leaves: of its files, in run.json, and of run.json itself.

`files` in run.json holds the size in bytes and the sha256 of each file; `sha256`, its last key,
seals the record. A tool that uses a file checks that file first. The oldest records have neither:
tables and figures read them, and no tool hands their weights or predictions on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from dora.checked_files import open_own, sha256_of
from dora.data import npz
from dora.errors import UserError
from dora.files import to_json
from dora.records.schema import BEFORE, Run

SEAL = "sha256"
# The seal is found and checked in the file's bytes, not by writing the parsed record again: two
# JSON texts may parse alike (1.0 and 1.00), and only one of them is the file that was written.
_TAIL = f',\n  "{SEAL}": "'  # as `to_json` writes a last key
ADAPTER_WEIGHTS = "adapter/adapter_model.safetensors"
ADAPTER_CONFIG = "adapter/adapter_config.json"
ADAPTER = (ADAPTER_WEIGHTS, ADAPTER_CONFIG)
WEIGHTS = "best.safetensors"
PREDICTIONS = npz.NAME
MODEL = "model/"  # full fine-tuning's whole model, kept with keep_model=true
FULL_WEIGHTS = "model/model.safetensors"
Files = dict[str, dict[str, Any]]


def sealed(record: dict[str, Any]) -> str:
    """Returns run.json's text: the record, and as its last key the sha256 of all before that key.

    Another key, `sealed`, says that there is a seal, so that no single damaged bit can hide it.
    """
    rest = {key: value for key, value in record.items() if key != SEAL}
    text = to_json({**rest, "sealed": True}).removesuffix("\n}\n")
    return f'{text}{_TAIL}{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'


def seal_problem(text: bytes, record: Run) -> str | None:
    """Returns why run.json is not as a run wrote it, or None where it is, or needs no seal.

    Records without any of the three keys were made before there were seals.
    """
    if "sealed" not in record and SEAL not in record and "files" not in record:
        return None
    body, tail, end = text.rpartition(_TAIL.encode())
    if not tail:
        return "it has lost its checksum: edited or damaged"
    whole = f'{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode() == end
    return None if whole else "it does not match its checksum: edited or damaged"


def weights_name(result: str) -> str:
    """Returns the name of the file that holds a run's weights, by its method's kind of result."""
    return FULL_WEIGHTS if result == "model" else WEIGHTS


def left(folder: Path) -> list[str]:
    """Returns the names of the files in `folder` that a finished run leaves for others to use.

    Journals are not among them: `Record.sync` gives their sums.
    """
    # Links are listed too, also broken ones, so that a check of them says what is wrong.
    names = [name for name in (PREDICTIONS, WEIGHTS, *ADAPTER) if os.path.lexists(folder / name)]
    model = [file for file in (folder / MODEL).glob("*") if file.is_symlink() or not file.is_dir()]
    return [*names, *sorted(f"{MODEL}{file.name}" for file in model)]


def sums(folder: Path, names: Iterable[str]) -> Files:
    """Returns size and sha256 of files in a run's directory, by name."""
    found = {}
    for name in names:
        with open_own(folder, name) as file:
            found[name] = _sum(file)
    return found


def sum_of(content: bytes) -> dict[str, Any]:
    """Returns size and sha256 of the content of a file that is still to be written."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _sum(file: IO[bytes]) -> dict[str, Any]:
    digest = sha256_of(file)
    return {"bytes": file.tell(), "sha256": digest}


def fault(folder: Path, run: Run, name: str) -> str | None:
    """Returns why a file is not as the run wrote it, such as `is missing`, or None if it is.

    The message goes behind the file's path. The run's record must have checksums.
    """
    known = _known(run["files"].get(name))
    if not known:
        return "is not among the files that run.json names: it is not this run's"
    try:
        with open_own(folder, name) as file:
            size = os.fstat(file.fileno()).st_size
            # A file of another size is not read: somebody else's may have terabytes.
            if size not in [each["bytes"] for each in known]:
                return (
                    f"is damaged or another's: it has {size:,} bytes, run.json says "
                    f"{known[0]['bytes']:,}"
                )
            if _sum(file) not in known:
                return "is damaged or another's: its sha256 is not the one in run.json"
    except FileNotFoundError:
        return "is missing"
    except OSError as e:
        return f"cannot be read: {e.strerror}"
    return None


def matches(run: Run, name: str, content: bytes) -> bool:
    """Returns whether a file's content is what the record says, as far as it has checksums."""
    return "files" not in run or sum_of(content) in _known(run["files"].get(name))


def changed(folder: Path, run: Run, name: str) -> str | None:
    """Returns the `fault` of a file that is there, None of a missing one.

    It is None too where the record has no checksums.
    """
    there = "files" in run and os.path.lexists(folder / name)
    return fault(folder, run, name) if there else None


def _known(entry: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Returns the sums that a file may have: the one that run.json names, and those before it."""
    if entry is None:
        return []
    return [{k: entry.get(k) for k in ("bytes", "sha256")}, *_known(entry.get(BEFORE))]


def of_model(run: Run) -> list[str]:
    """Returns the names of the files of a model that was kept whole, from run.json."""
    return [name for name in run.get("files", {}) if name.startswith(MODEL)]


def damaged(folder: Path, run: Run, names: Iterable[str]) -> list[str]:
    """Returns the problems of these files of the finished run in `folder`, each with the way out.

    A record without checksums is one problem: nothing tells whose the files beside it are.
    """
    if "files" not in run:
        return [f"{folder}: its record has no checksums; its command trains it anew"]
    again = "train it again with force=true"
    found = {name: fault(folder, run, name) for name in names}
    return [
        f"{folder / name} {why}; fetch it again, or {again}" for name, why in found.items() if why
    ]


def check(folder: Path, run: Run, *names: str) -> None:
    """Raises UserError with each of these files that is not as the run in `folder` wrote it."""
    if problems := damaged(folder, run, names):
        raise UserError(*problems)
