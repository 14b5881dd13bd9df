"""predictions.npz read in bounds: what its headers claim is checked before a byte of memory is taken for it."""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from dora.files import open_own
from dora.plain import cut

NAME = "predictions.npz"
# The largest real one, of QQP, takes 20 MB: 390,965 test rows and 40,430 of development.
MOST_BYTES = 256 * 2**20
_MOST_LISTED = 2**18  # bytes of the archive's table of contents
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_END = 22  # bytes that close an archive without a comment


class Refused(ValueError):
    """A predictions.npz that no run wrote; says why."""


# What zipfile, zlib and NumPy's reader of headers raise on other bytes than they wrote.
_DAMAGED = (
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    OSError,
)


def load(
    folder: Path, names: Collection[str] | None = None, outputs: int | None = None
) -> dict[str, np.ndarray]:
    """The arrays of a run's predictions by name, all or those of `names` that there are.

    Logits are floats (rows, outputs), `outputs` of them where that is given; ids and labels are numbers (rows,), labels
    of several classes below `outputs`; all of one split are of one length. Raises FileNotFoundError where there is no
    file, OSError where it is a link or a pipe, Refused for anything else, within a second.
    """
    with _opened(folder) as archive:
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if odd := [name for name, info in infos.items() if info.compress_type not in _PACKED]:
            raise Refused(f"{cut(odd[0])} is packed as no run packs it")
        wanted = [name for name in infos if names is None or name in names]
        if sum(infos[name].file_size for name in wanted) > MOST_BYTES:
            raise Refused(f"its arrays claim more than {MOST_BYTES:,} bytes")
        found = {name: _array(archive, infos[name], name) for name in wanted}
    _check_rows(found)
    _check_outputs(found, outputs)
    return found


def names(folder: Path) -> set[str]:
    """The names of a run's stored predictions, without reading them. Raises as `load` does."""
    with _opened(folder) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[zipfile.ZipFile]:
    with open_own(folder, NAME, MOST_BYTES) as file:
        try:
            with _archive(file) as archive:
                yield archive
        except Refused:
            raise
        except _DAMAGED as e:
            raise Refused(f"it is no whole archive of arrays ({type(e).__name__}: {cut(e)})") from e


def _archive(file: IO[bytes]) -> zipfile.ZipFile:
    """The archive, its table of contents known to be short: zipfile reads all that is claimed of it."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END - 20))
    locator, end = file.read(20 if size >= _END + 20 else max(0, size - _END)), file.read(_END)
    if len(end) < _END or end[:4] != b"PK\x05\x06" or end[-2:] != b"\0\0":
        raise Refused("it is no whole archive of arrays: its end is missing")
    if int.from_bytes(end[12:16], "little") > _MOST_LISTED or locator.startswith(b"PK\x06\x07"):
        raise Refused("its table of contents is longer than any run's")
    return zipfile.ZipFile(file)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> np.ndarray:
    """One array, of a number of bytes that its header and the archive agree upon."""
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):  # later ones are for headers of up to 4 GB
            raise Refused(
                f"{cut(name)} is stored in version {version[0]}.{version[1]} of NumPy's format, not 1.0"
            )
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(member)
        begin = member.tell()
        if dtype.hasobject:
            raise Refused(
                f"Object arrays cannot be loaded, and {cut(name)} is one: a pickle may run anything"
            )
        if problem := _unfit(name, shape, dtype):
            raise Refused(f"{cut(name)} {problem}")
        number = math.prod(shape)
        claimed = number * dtype.itemsize
        if claimed != info.file_size - begin:
            raise Refused(
                f"{cut(name)} claims {claimed:,} bytes and has {info.file_size - begin:,}"
            )
        values = member.read(claimed)
        member.read(1)  # its end, where zipfile compares the checksum
    if len(values) != claimed:
        raise Refused(f"{cut(name)} is cut short")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if by_column else "C").copy()


def _unfit(name: str, shape: tuple[int, ...], dtype: np.dtype) -> str | None:
    """Why an array is none of a run's predictions; None where it may be."""
    logits = name.endswith("/logits")
    if any(not isinstance(n, int) or n < 0 for n in shape):
        return f"has the shape {cut(shape)}"
    if (
        dtype.kind not in ("f" if logits else "iuf")
        or dtype.itemsize > 8
        or dtype.names
        or dtype.subdtype
    ):
        return f"holds {cut(dtype)}, no {'logits' if logits else 'numbers'}"
    if len(shape) != (2 if logits else 1):
        return f"has {len(shape)} dimensions, not {2 if logits else 1}"
    return None


def _check_rows(found: dict[str, np.ndarray]) -> None:
    """Raises Refused where a split's logits, labels and ids are of unequal numbers of rows."""
    rows: dict[str, tuple[str, int]] = {}
    for name, array in found.items():
        split = name.rpartition("/")[0].rpartition("/")[2]
        first, number = rows.setdefault(split, (name, len(array)))
        if len(array) != number:
            raise Refused(f"{cut(first)} has {number:,} rows, {cut(name)} {len(array):,}")


def _check_outputs(found: dict[str, np.ndarray], outputs: int | None) -> None:
    """Raises Refused for logits of another number of classes, and for labels that are none of them."""
    if outputs is None:
        return
    for name, array in found.items():
        if name.endswith("/logits") and array.shape[1] != outputs:
            raise Refused(f"{cut(name)} has {array.shape[1]:,} columns, and the task has {outputs}")
        classes = name.endswith("/labels") and outputs > 1 and array.size
        if classes and not (
            array.dtype.kind in "iu" and 0 <= array.min() and array.max() < outputs
        ):
            raise Refused(f"{cut(name)} holds labels that the task has not")
