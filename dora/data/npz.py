"""A reader of predictions.npz that is safe for files from somebody else.

NumPy unpickles nothing here, and the sizes that the archive declares are checked before it reads.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from dora.checked_files import open_own
from dora.plain import cut

NAME = "predictions.npz"
# The largest real file is QQP's: 390,965 test rows and 40,430 of development, each with an id and two
# times two logits. It has 11 MB; rows of one's own may be more. An archive of 64 MiB can list over a
# million names, which take 430 MB of memory.
MOST_BYTES = 64 * 2**20


class Refused(ValueError):
    """A predictions.npz that no run wrote; the message says why."""


def load(
    folder: Path, names: Collection[str] | None = None, outputs: int | None = None
) -> dict[str, np.ndarray]:
    """Reads the arrays of a run's predictions by name.

    `names`: the arrays to read, less those that the file lacks; None for all.
    `outputs`: the width of the logits, checked where it is given.

    Logits are floats (rows, outputs). Ids and labels are numbers (rows,); labels of a
    classification are integers in [0, outputs). All arrays of a split have the same number of rows,
    at least one. Raises FileNotFoundError where there is no file, OSError where it is a link or a
    pipe, Refused for any other file that a run would not write. No file takes over 500 MB of
    memory.
    """
    with open_own(folder, NAME, MOST_BYTES) as file:
        try:
            with np.load(file, allow_pickle=False) as held:
                # The sum counts all entries, since an archive may hold a name more than once.
                if sum(info.file_size for info in held.zip.infolist()) > MOST_BYTES:
                    raise Refused(f"its arrays claim more than {MOST_BYTES:,} bytes")
                wanted = [n for n in dict.fromkeys(held.files) if names is None or n in names]
                found = {name: np.asarray(held[name]) for name in wanted}
        except Refused:
            raise
        # Zipfile, zlib and NumPy's reader of headers trust a damaged file, which leads them to
        # almost any exception, tokenize.TokenError among them.
        except Exception as e:
            raise Refused(f"it is no whole archive of arrays ({type(e).__name__}: {cut(e)})") from e
    for name, array in found.items():
        if problem := _unfit(name, array):
            raise Refused(f"{cut(name)} {problem}")
    _check_rows(found)
    _check_outputs(found, outputs)
    return found


def _unfit(name: str, array: np.ndarray) -> str | None:
    """Says what keeps an array from being a run's predictions, or returns None if nothing does."""
    logits = name.endswith("/logits")
    # Real numbers only. Those of more than 8 bytes are long doubles.
    if array.itemsize > 8 or array.dtype.kind not in ("f" if logits else "iuf"):
        return f"holds {cut(array.dtype)}, no {'logits' if logits else 'numbers'}"
    if array.ndim != (2 if logits else 1):
        return f"has {array.ndim} dimensions, not {2 if logits else 1}"
    # A split without rows is refused when the data are read.
    return None if array.size else "is empty"


def _check_rows(found: dict[str, np.ndarray]) -> None:
    """Raises Refused where logits, labels and ids of a split have unequal numbers of rows."""
    rows: dict[str, tuple[str, int]] = {}  # split -> name and rows of its first array
    for name, array in found.items():
        # "best/dev/logits", "last/dev/logits" and "dev/ids" are all of the split "dev".
        split = name.rpartition("/")[0].rpartition("/")[2]
        first, number = rows.setdefault(split, (name, len(array)))
        if len(array) != number:
            raise Refused(f"{cut(first)} has {number:,} rows, {cut(name)} {len(array):,}")


def _check_outputs(found: dict[str, np.ndarray], outputs: int | None) -> None:
    """Raises Refused for logits of another width, and for labels that name no class.

    `outputs`: the task's number of classes, 1 for a regression; None skips the check.
    """
    if outputs is None:
        return
    for name, array in found.items():
        if name.endswith("/logits") and array.shape[1] != outputs:
            raise Refused(f"{cut(name)} has {array.shape[1]:,} columns, and the task has {outputs}")
        classes = name.endswith("/labels") and outputs > 1
        if classes and not (
            array.dtype.kind in "iu" and 0 <= array.min() and array.max() < outputs
        ):
            raise Refused(f"{cut(name)} holds labels that the task has not")
