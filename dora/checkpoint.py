"""The whole state of a run in one file, and the signals that ask a run to stop.

A checkpoint is tensors and a little JSON: `step-N.safetensors` and `step-N.json`, which names the first
one's checksum and is written after it. The one before is kept until the new one is whole, and is used
where the newest turns out damaged.
"""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
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


class StopSignals:
    """Notes SIGTERM, SIGINT and SIGUSR2 while a run trains, so that it stops between two steps.

    A second SIGINT acts at once. On leaving, the handlers that were there before are put back; `hand_over`
    then passes on what came.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        try:
            for number in self.SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread: whoever runs us there handles signals
            pass
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hand_over(self) -> None:
        """Calls the handler that was there before for the signal that came; Python's own for SIGINT only interrupts."""
        handler = self._before.get(self.received or 0)
        if callable(handler) and handler is not signal.default_int_handler:
            handler(self.received, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == number:
            raise KeyboardInterrupt
        self.received = number
