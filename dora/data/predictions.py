"""What a task's logits say, and whether they say anything. Needs NumPy alone."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dora.data import npz
from dora.data.tasks import Rows, Task
from dora.files import write_atomic

# What `npz.load` raises for a predictions.npz that is damaged or another's, and a look at an array that it lacks.
UNREADABLE = (OSError, npz.Refused, KeyError)


def constant(values: np.ndarray) -> bool:
    """Whether all values are one, up to the rounding that scipy too calls "nearly constant"."""
    return bool(np.ptp(values) <= 1e-11 * np.abs(values).max())


def predict(task: Task, logits: np.ndarray) -> np.ndarray:
    """(n, outputs) → (n,): the class with the highest logit (the first of equals), or the score itself."""
    return (
        logits.reshape(len(logits)).astype(np.float64) if task.regression else logits.argmax(axis=1)
    )


def degenerate(task: Task, logits: np.ndarray, metrics: dict[str, float]) -> str | None:
    """Why predictions (n, outputs) say nothing about their rows; None where nothing looks wrong."""
    if not np.isfinite(logits).all():
        rows = (~np.isfinite(logits)).reshape(len(logits), -1).any(axis=1)
        return f"{rows.sum()} of {len(logits)} rows have logits that are not finite"
    predictions = predict(task, logits)
    if constant(predictions):
        one = f"{predictions[0]:.4g}" if task.regression else repr(task.labels[predictions[0]])
        return f"all {len(predictions)} predictions are {one}"
    if metrics.get("matthews_correlation") == 0:
        return "the Matthews correlation is exactly 0"
    return None


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a predictions.npz; the same arrays give the same ones."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # NumPy types the keywords as its own
    return buffer.getvalue()


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes predictions.npz, whole or not at all."""
    write_atomic(path, packed(arrays))


def unpredicted(folder: Path, rows: Mapping[str, Rows]) -> list[str]:
    """The unlabelled splits of `rows` that a done run's predictions.npz lacks.

    None where the run keeps no predictions that can be read: there is nothing to add to.
    """
    try:
        stored = npz.names(folder)
    except UNREADABLE:
        return []
    return [
        k for k, split in rows.items() if split.label is None and f"best/{k}/logits" not in stored
    ]
