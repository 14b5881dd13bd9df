"""The whole state of a run in one sealed file.

A checkpoint is `step-N.checkpoint`: the sha256 of all that follows, and a safetensors file whose
header holds a little JSON, the label. No bit of it can change unnoticed. The one before is kept
until the new one is whole, and is used where anything is wrong with the newest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from dora.files import write_atomic

KEPT = 2
_SEAL = hashlib.sha256().digest_size  # bytes at the beginning of the file
Loaded = tuple[dict[str, Tensor], dict[str, Any]]


def save(folder: Path, step: int, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes the checkpoint of `step`; `about` is JSON. Then drops all but the newest KEPT."""
    folder.mkdir(parents=True, exist_ok=True)
    label = json.dumps({"step": step, **about}, allow_nan=False)
    held = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    data = safetensors.torch.save(held, {"label": label})
    write_atomic(_file(folder, step), hashlib.sha256(data).digest(), data)
    for old in _steps(folder)[KEPT:]:
        _file(folder, old).unlink(missing_ok=True)


def load(
    folder: Path,
    warn: Callable[[str], None],
    problem: Callable[[dict[str, Any]], str | None] = lambda about: None,
) -> Loaded | None:
    """(tensors, about) of the newest checkpoint that is whole; None if there is none. Runs no code.

    `problem`: what keeps a label from being used, such as a journal that is not as it was.
    """
    for step in _steps(folder):
        file = _file(folder, step)
        try:
            tensors, about = _opened(file)
            if about["step"] != step:
                raise ValueError(f"it is that of step {about['step']}")
            if (wrong := problem(about)) is not None:
                raise ValueError(wrong)
            return tensors, about
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as e:
            warn(f"checkpoint {file} is damaged ({e}); using the one before")
    return None


def _opened(file: Path) -> Loaded:
    with file.open("rb") as f:
        seal, data = f.read(_SEAL), f.read()
    if hashlib.sha256(data).digest() != seal:
        raise ValueError("its checksum does not match")
    length = int.from_bytes(data[:8], "little")  # of safetensors' header, which is JSON
    label = json.loads(data[8 : 8 + length])["__metadata__"]["label"]
    return safetensors.torch.load(data), json.loads(label)


def newest(folder: Path) -> int:
    """The step of the newest checkpoint, 0 where there is none."""
    return max(_steps(folder), default=0)


def _file(folder: Path, step: int) -> Path:
    return folder / f"step-{step}.checkpoint"


def _steps(folder: Path) -> list[int]:
    """Steps of the checkpoints, newest first; files of any other name are somebody else's."""
    names = (re.fullmatch(r"step-([0-9]{1,18})\.checkpoint", f.name) for f in folder.glob("step-*"))
    return sorted((int(name[1]) for name in names if name), reverse=True)
