"""Checksums of all that a run leaves: of its files, in run.json, and of run.json itself.

`files` in run.json names the bytes and the sha256 of each file; `sha256`, its last key, seals the record. Whoever uses
a file checks that one first. Records made before there were checksums have neither.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from dora.errors import UserError
from dora.files import open_own, sha256_of, to_json

SEAL = "sha256"
_TAIL = f',\n  "{SEAL}": "'  # as `to_json` writes a last key
# A file that is replaced after the run was done may be the one `before`: a kill can come between record and file.
BEFORE = "before"
ADAPTER = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")
WEIGHTS = "best.safetensors"
PREDICTIONS = "predictions.npz"
MODEL = "model/"
FULL_WEIGHTS = "model/model.safetensors"
Files = dict[str, dict[str, Any]]


def sealed(record: dict[str, Any]) -> str:
    """run.json's text: the record, and as its last key the sha256 of all that stands before that.

    `sealed`, one of its other keys, says that there is one, so that no bit can hide it.
    """
    rest = {key: value for key, value in record.items() if key != SEAL}
    text = to_json({**rest, "sealed": True}).removesuffix("\n}\n")
    return f'{text}{_TAIL}{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'


def seal_problem(text: bytes, record: dict[str, Any]) -> str | None:
    """Why run.json is not to be believed; None where it is as a run wrote it, or was made before there were seals."""
    if "sealed" not in record and SEAL not in record and "files" not in record:
        return None
    body, tail, end = text.rpartition(_TAIL.encode())
    if not tail:
        return "it has lost its checksum: edited or damaged"
    whole = f'{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode() == end
    return None if whole else "it does not match its checksum: edited or damaged"


def left(folder: Path) -> list[str]:
    """The names of the files there that a finished run leaves for others to use, journals not among them."""
    names = [name for name in (PREDICTIONS, WEIGHTS, *ADAPTER) if os.path.lexists(folder / name)]
    model = [file for file in (folder / MODEL).glob("*") if file.is_symlink() or not file.is_dir()]
    return [*names, *sorted(f"{MODEL}{file.name}" for file in model)]


def sums(folder: Path, names: Iterable[str]) -> Files:
    """Bytes and sha256 of files in a run's directory, by name."""
    found = {}
    for name in names:
        with open_own(folder, name) as file:
            found[name] = _sum(file)
    return found


def sum_of(content: bytes) -> dict[str, Any]:
    """Bytes and sha256 of what is going to be a file."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _sum(file: IO[bytes]) -> dict[str, Any]:
    digest = sha256_of(file)
    return {"bytes": file.tell(), "sha256": digest}


def problem(folder: Path, run: dict[str, Any], name: str) -> str | None:
    """What is wrong with a file of a run whose record has checksums; None where it is as the run wrote it."""
    known = _known(run["files"].get(name))
    path = folder / name
    if not known:
        return f"{path} is not among the files that run.json names: it is not this run's"
    try:
        with open_own(folder, name) as file:
            size = os.fstat(file.fileno()).st_size
            if size not in [each["bytes"] for each in known]:  # however large it is, it is not read
                return f"{path} is damaged or another's: it has {size:,} bytes, run.json says {known[0]['bytes']:,}"
            if _sum(file) not in known:
                return f"{path} is damaged or another's: its sha256 is not the one in run.json"
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as e:
        return f"{path} cannot be read: {e.strerror}"
    return None


def changed(folder: Path, run: dict[str, Any], name: str) -> str | None:
    """Why a file that is there is not as the run wrote it; None where it is, or its record has no checksums."""
    if "files" not in run or not os.path.lexists(folder / name):
        return None
    found = problem(folder, run, name)
    return None if found is None else found.removeprefix(f"{folder / name} ")


def _known(entry: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The sums that a file may have: what run.json names, and the one before it."""
    if entry is None:
        return []
    return [{k: entry.get(k) for k in ("bytes", "sha256")}, *_known(entry.get(BEFORE))]


def of_model(run: dict[str, Any]) -> list[str]:
    """The files of the model that full fine-tuning kept, as run.json names them."""
    return [name for name in run.get("files", {}) if name.startswith(MODEL)]


def damaged(folder: Path, run: dict[str, Any], names: Iterable[str]) -> list[str]:
    """What is wrong with these files of the finished run in `folder`, each with the way out.

    Nothing where its record has no checksums, which is said once.
    """
    if "files" not in run:
        _say_unchecked(folder)
        return []
    again = "train it again with force=true"
    found = (problem(folder, run, name) for name in names)
    return [f"{text}; fetch it again, or {again}" for text in found if text is not None]


def check(folder: Path, run: dict[str, Any], *names: str) -> None:
    """Raises UserError where one of these files is not as the run in `folder` wrote it."""
    if problems := damaged(folder, run, names):
        raise UserError(*problems)


@functools.cache  # once a run
def _say_unchecked(folder: Path) -> None:
    print(
        f"{folder}: its record has no checksums, it was made before they were kept", file=sys.stderr
    )
