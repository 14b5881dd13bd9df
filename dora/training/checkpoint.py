"""Checkpoints: the whole state of a run in one file with a checksum.

A checkpoint is a file `step-N.checkpoint`: first the sha256 of the rest, then a safetensors file
whose header holds a little JSON, the label. No changed bit goes unnoticed. The checkpoint before is
kept until the new one is whole, and is used if the newest is damaged.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from dora.adapters.result import as_stored
from dora.files import write_atomic

KEPT = 2  # the newest, and the one before for a damaged newest
# Errors of reading that tell of this file alone: a bad block of the disk, or no such file.
_OF_THE_FILE = (errno.EIO, errno.ENOENT)
_SEAL = hashlib.sha256().digest_size  # bytes at the beginning of the file
Checkpoint = tuple[dict[str, Tensor], dict[str, Any]]


def save(folder: Path, step: int, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes the checkpoint of `step`, then deletes all but this one and the KEPT - 1 before it.

    `about`: entries of the label, JSON without NaN.
    """
    folder.mkdir(parents=True, exist_ok=True)
    label = json.dumps({"step": step, **about}, allow_nan=False)
    data = safetensors.torch.save(as_stored(tensors), {"label": label})
    # Under a temporary name, synced, renamed: a kill leaves the old files or the new one, whole.
    write_atomic(_file(folder, step), hashlib.sha256(data).digest(), data)
    steps = _steps(folder)
    # Checkpoints of later steps go too. The run could not use them and has begun before them; if
    # they counted as the newest, this one would be deleted.
    kept = [other for other in steps if other <= step][:KEPT]
    for other in set(steps) - set(kept):
        _file(folder, other).unlink(missing_ok=True)


def load(
    folder: Path,
    warn: Callable[[str], None],
    problem: Callable[[dict[str, Any]], str | None] = lambda about: None,
) -> Checkpoint | None:
    """Returns (tensors, label) of the newest whole checkpoint; None if there is none.

    `warn`: receives a line for each damaged one. `problem`: takes a label and returns why its
    checkpoint cannot be used, such as a journal that was changed, or None. Unlike unpickling,
    reading a checkpoint executes nothing that it holds.

    Raises OSError if a file cannot be read now. This says nothing about its content, and going on
    without it would give up the work that it holds.
    """
    steps = _steps(folder)
    for step in steps:
        file = _file(folder, step)
        try:
            tensors, about = _opened(file)
            # The checksum covers the content, not the name: a renamed file shows here.
            if about["step"] != step:
                raise ValueError(f"it is that of step {about['step']}")
            if (wrong := problem(about)) is not None:
                raise ValueError(wrong)
            return tensors, about
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as e:
            if isinstance(e, OSError) and e.errno not in _OF_THE_FILE:
                raise
            then = "using the one before" if step > steps[-1] else "the run begins anew"
            warn(f"checkpoint {file} is damaged ({e}); {then}")
    return None


def _opened(file: Path) -> Checkpoint:
    """Returns a checkpoint's tensors and label. Raises ValueError if its checksum is wrong."""
    with file.open("rb") as f:
        seal, data = f.read(_SEAL), f.read()
    if hashlib.sha256(data).digest() != seal:
        raise ValueError("its checksum does not match")
    # safetensors.torch.load gives no metadata, so the header is read here: its first 8 bytes are
    # the length of the JSON that follows.
    length = int.from_bytes(data[:8], "little")
    label = json.loads(data[8 : 8 + length])["__metadata__"]["label"]
    return safetensors.torch.load(data), json.loads(label)


def newest(folder: Path) -> int:
    """Returns the step of the newest checkpoint, 0 if there is none."""
    return max(_steps(folder), default=0)


def _file(folder: Path, step: int) -> Path:
    return folder / f"step-{step}.checkpoint"


def _steps(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints, newest first; files of other names are left alone."""
    names = (re.fullmatch(r"step-([0-9]{1,18})\.checkpoint", f.name) for f in folder.glob("step-*"))
    return sorted((int(name[1]) for name in names if name), reverse=True)
