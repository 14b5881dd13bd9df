"""What a task's logits say, and whether they say anything. Needs NumPy alone."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from dora.data.tasks import Rows, Task
from dora.files import open_own, write_atomic

AT_MOST = 1 << 30  # bytes of a predictions.npz: QQP's has 10 MB
# What NumPy and zipfile raise for a predictions.npz that is empty, cut short, overwritten or without an array.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    AttributeError,
    RuntimeError,  # a bit that says a member is encrypted
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def constant(values: np.ndarray) -> bool:
    """Whether all values are one, up to the rounding that scipy too calls "nearly constant"."""
    return bool(np.ptp(values) <= 1e-11 * np.abs(values).max())


def predict(task: Task, logits: np.ndarray) -> np.ndarray:
    """(n, outputs) → (n,): the class with the highest logit (the first of equals), or the score itself."""
    return logits.reshape(len(logits)).astype(np.float64) if task.regression else logits.argmax(axis=1)


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


def load(folder: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a run's predictions.npz by name: those of `names` that it holds, or all. They are read-only.

    Takes no more memory than the file has bytes, whatever its headers claim. Raises one of UNREADABLE.
    """
    with open_own(folder, "predictions.npz", AT_MOST) as file, zipfile.ZipFile(file) as archive:
        held = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        wanted = {name: member for name, member in held.items() if names is None or name in names}
        if sum(member.file_size for member in wanted.values()) > AT_MOST:
            raise ValueError(f"its arrays have more than {AT_MOST:,} bytes")
        return {name: _array(archive.read(member)) for name, member in wanted.items()}


def _array(data: bytes) -> np.ndarray:
    """The array in a .npy file's bytes. `numpy.load` would allocate all that the header claims before it reads."""
    file = io.BytesIO(data)
    if (version := np.lib.format.read_magic(file)) != (1, 0):
        raise ValueError(f"an array is of NumPy's format {version}, and runs write (1, 0)")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded: they are pickles")
    if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"an array of {shape} does not fit its {len(data):,} bytes")
    return np.ndarray(shape, dtype, data, file.tell(), order="F" if by_column else "C")


def unpredicted(folder: Path, rows: Mapping[str, Rows]) -> list[str]:
    """The unlabelled splits of `rows` that a done run's predictions.npz lacks.

    None where the run keeps no predictions that can be read: there is nothing to add to.
    """
    if not (folder / "predictions.npz").is_file():  # a pipe would be waited for
        return []
    try:
        with np.load(folder / "predictions.npz", allow_pickle=False) as stored:
            return [
                k for k, split in rows.items() if split.label is None and f"best/{k}/logits" not in stored
            ]
    except UNREADABLE:
        return []
