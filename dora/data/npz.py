"""A reader of predictions.npz that is safe for files from somebody else.

Each size that a header claims is checked before memory is allocated for it. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import zipfile
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
_END = 22  # bytes of the record that ends a zip archive without a comment
_LOCATOR = 20  # bytes of the Zip64 locator, which may stand before that record


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
    pipe, Refused for any other file that a run would not write; each within a second.
    """
    with _opened(folder) as archive:
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        # np.savez stores, np.savez_compressed deflates; NumPy writes nothing else.
        if odd := [name for name, info in infos.items() if info.compress_type not in _PACKED]:
            raise Refused(f"{cut(odd[0])} is packed as no run packs it")
        wanted = [name for name in infos if names is None or name in names]
        if sum(infos[name].file_size for name in wanted) > MOST_BYTES:
            raise Refused(f"its arrays claim more than {MOST_BYTES:,} bytes")
        found = {name: _array(archive, infos[name], name) for name in wanted}
    _check_rows(found)
    _check_outputs(found, outputs)
    return found


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[zipfile.ZipFile]:
    """Gives the run's archive; turns the many errors of damaged files into Refused."""
    with open_own(folder, NAME, MOST_BYTES) as file:
        try:
            with _archive(file) as archive:
                yield archive
        except Refused:
            raise
        # Zipfile, zlib and NumPy's reader of headers trust a damaged file, which leads them to
        # almost any exception, tokenize.TokenError among them.
        except Exception as e:
            raise Refused(f"it is no whole archive of arrays ({type(e).__name__}: {cut(e)})") from e


def _archive(file: IO[bytes]) -> zipfile.ZipFile:
    """Opens the archive after checking that its table of contents is short.

    zipfile would read as much as the archive claims its table to have.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - _END - _LOCATOR))
    locator = file.read(min(_LOCATOR, max(0, size - _END)))
    end = file.read(_END)
    # The last two bytes are the length of the archive's comment; NumPy writes none.
    if len(end) < _END or end[:4] != b"PK\x05\x06" or end[-2:] != b"\0\0":
        raise Refused("it is no whole archive of arrays: its end is missing")
    # Bytes 12 to 15 hold the table's size. A Zip64 locator would make zipfile take the size from
    # another record, and no run's archive is large enough to have one.
    if int.from_bytes(end[12:16], "little") > _MOST_LISTED or locator.startswith(b"PK\x06\x07"):
        raise Refused("its table of contents is longer than any run's")
    return zipfile.ZipFile(file)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> np.ndarray:
    """Reads one array, if its header and the archive agree on its number of bytes."""
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):  # later versions allow headers of up to 4 GB
            raise Refused(
                f"{cut(name)} is stored in version {version[0]}.{version[1]} of NumPy's format, "
                "not 1.0"
            )
        shape, by_column, dtype = _header(_header_bytes(member))
        begin = member.tell()
        if dtype.hasobject:
            raise Refused(
                f"Object arrays cannot be loaded, and {cut(name)} is one: a pickle may run anything"
            )
        if problem := _unfit(name, shape, dtype):
            raise Refused(f"{cut(name)} {problem}")
        number = math.prod(shape)  # a Python integer, which cannot overflow as NumPy's would
        claimed = number * dtype.itemsize
        if claimed != info.file_size - begin:
            raise Refused(
                f"{cut(name)} claims {claimed:,} bytes and has {info.file_size - begin:,}"
            )
        values = member.read(claimed)
        member.read(1)  # reaches the member's end, where zipfile compares the checksum
    if len(values) != claimed:
        raise Refused(f"{cut(name)} is cut short")
    # A copy, because an array over `bytes` cannot be written to.
    return np.frombuffer(values, dtype).reshape(shape, order="F" if by_column else "C").copy()


def _header_bytes(member: IO[bytes]) -> bytes:
    """Reads a header behind its magic string: two bytes of length, and as many bytes of text."""
    size = member.read(2)
    return size + member.read(int.from_bytes(size, "little"))


@functools.lru_cache(maxsize=256)
def _header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Returns shape, whether the order is by column, and dtype.

    NumPy parses a header as Python source. A study's arrays have the same few headers.
    """
    return np.lib.format.read_array_header_1_0(io.BytesIO(header))


def _unfit(name: str, shape: tuple[int, ...], dtype: np.dtype) -> str | None:
    """Says what keeps an array from being a run's predictions, or returns None if nothing does."""
    logits = name.endswith("/logits")
    if any(not isinstance(n, int) or n < 0 for n in shape):
        return f"has the shape {cut(shape)}"
    # Real numbers only. More than 8 bytes would be long doubles, records or arrays in arrays.
    simple = dtype.itemsize <= 8 and not dtype.names and not dtype.subdtype
    if not simple or dtype.kind not in ("f" if logits else "iuf"):
        return f"holds {cut(dtype)}, no {'logits' if logits else 'numbers'}"
    if len(shape) != (2 if logits else 1):
        return f"has {len(shape)} dimensions, not {2 if logits else 1}"
    # A split without rows is refused when the data are read.
    return "is empty" if 0 in shape else None


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
