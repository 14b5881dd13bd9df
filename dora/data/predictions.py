"""From logits to predictions, their check, and predictions.npz. Needs NumPy alone."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dora.data import npz
from dora.data.tasks import Rows, Task
from dora.files import write_atomic

# Raised by `npz.load` for a file that is damaged or another's; KeyError by a look-up of an array
# that the file lacks.
UNREADABLE = (OSError, npz.Refused, KeyError)


def constant(values: np.ndarray) -> bool:
    """Returns True where all values are equal up to rounding."""
    # 1e-11: below about this relative spread scipy calls an input "nearly constant", and its
    # correlation with anything is rounding noise.
    return bool(np.ptp(values) <= 1e-11 * np.abs(values).max())


def predict(task: Task, logits: np.ndarray) -> np.ndarray:
    """Returns the predictions (n,) for logits (n, outputs).

    A prediction is the class with the highest logit (the first of equal ones), or the score itself
    for a regression.
    """
    return (
        logits.reshape(len(logits)).astype(np.float64) if task.regression else logits.argmax(axis=1)
    )


def degenerate(task: Task, logits: np.ndarray, metrics: dict[str, float]) -> str | None:
    """Says why logits (n, outputs) tell nothing about their rows; returns None if they may.

    `metrics`: the scores of these logits.
    """
    if not np.isfinite(logits).all():
        rows = (~np.isfinite(logits)).reshape(len(logits), -1).any(axis=1)
        return f"{rows.sum()} of {len(logits)} rows have logits that are not finite"
    predictions = predict(task, logits)
    if constant(predictions):
        one = f"{predictions[0]:.4g}" if task.regression else repr(task.labels[predictions[0]])
        return f"all {len(predictions)} predictions are {one}"
    # Exactly 0 is a coincidence for a model that has learned anything, even a little.
    if metrics.get("matthews_correlation") == 0:
        return "the Matthews correlation is exactly 0"
    return None


def as_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns the bytes of a predictions.npz; equal arrays give equal bytes."""
    # np.savez gives every member the same date, so no time of writing gets into the bytes.
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # NumPy types the keywords as its own
    return buffer.getvalue()


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes predictions.npz, whole or not at all."""
    write_atomic(path, as_npz(arrays))


def text_sums(rows: Rows) -> np.ndarray:
    """Returns the CRC-32 of each row's texts, (rows,) uint32."""
    seconds = [""] * len(rows) if rows.second is None else rows.second
    texts = zip(rows.first, seconds, strict=True)
    return np.array([zlib.crc32(f"{a}\0{b}".encode()) for a, b in texts], np.uint32)


def unpredicted(folder: Path, rows: Mapping[str, Rows]) -> list[str]:
    """Lists the unlabelled splits of `rows` whose ids or texts a done run's predictions.npz lacks.

    The file lacks such a split, or has it for other rows, as for an AX.tsv that was cut short or
    had other texts. The list is empty where the run keeps no readable predictions: there is nothing
    to add to.
    """
    unlabelled = {split: each for split, each in rows.items() if each.label is None}
    names = [f"{split}/{name}" for split in unlabelled for name in ("ids", "texts")]
    try:
        stored = npz.load(folder, names)
    except UNREADABLE:
        return []

    def lacks(split: str, own: Rows) -> bool:
        ids, texts = (stored.get(f"{split}/{name}") for name in ("ids", "texts"))
        if ids is None or not np.array_equal(ids, own.idx):
            return True
        # Only splits outside the data's fingerprint have sums, and in old files not even these.
        return texts is not None and not np.array_equal(texts, text_sums(own))

    return [split for split, own in unlabelled.items() if lacks(split, own)]
