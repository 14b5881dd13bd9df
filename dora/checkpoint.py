"""The whole state of a run in one file.

A checkpoint is tensors and a little JSON: `step-N.safetensors` and `step-N.json`, which names the first
one's checksum and is written after it. The one before is kept until the new one is whole, and is used
where the newest turns out damaged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from dora.files import to_json, write_atomic

KEPT = 2


def save(folder: Path, step: int, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes the checkpoint of `step`; `about` is JSON. Then drops all but the newest KEPT."""
    folder.mkdir(parents=True, exist_ok=True)
    data = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    write_atomic(folder / f"step-{step}.safetensors", data)
    label = {"step": step, "sha256": hashlib.sha256(data).hexdigest(), **about}
    write_atomic(folder / f"step-{step}.json", to_json(label))
    for old in _steps(folder)[KEPT:]:
        (folder / f"step-{old}.json").unlink(missing_ok=True)
        (folder / f"step-{old}.safetensors").unlink(missing_ok=True)


def load(folder: Path, warn: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors, about) of the newest checkpoint that is whole; None if there is none. Runs no code."""
    for step in _steps(folder):
        file = folder / f"step-{step}.safetensors"
        try:
            about = json.loads((folder / f"step-{step}.json").read_text(encoding="utf-8"))
            data = file.read_bytes()
            if hashlib.sha256(data).hexdigest() != about["sha256"]:
                raise ValueError("its checksum does not match")
            return safetensors.torch.load(data), about
        except (OSError, ValueError, KeyError, SafetensorError) as e:
            warn(f"checkpoint {file} is damaged ({e}); using the one before")
    return None


def newest(folder: Path) -> int:
    """The step of the newest labelled checkpoint, 0 where there is none."""
    return max(_steps(folder), default=0)


def _steps(folder: Path) -> list[int]:
    """Steps of the labelled checkpoints, newest first."""
    return sorted((int(f.stem.removeprefix("step-")) for f in folder.glob("step-*.json")), reverse=True)
