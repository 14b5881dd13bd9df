"""Files that somebody else made: whether they are there, what keeps them from being read, and their lines.

Two limits keep a damaged or hostile file from filling the memory. Both lie far above GLUE's own files, and
what a file says of its size is checked as well as what really comes out of it.
"""

from __future__ import annotations

import errno
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from dora.errors import UserError

Location = Path | zipfile.Path

# GLUE's largest file, MNLI's train.tsv with its parse trees, has some hundred megabytes.
FILE_BYTES = 1 << 30
# GLUE's longest texts are some thousand characters, and a line of MNLI repeats them in two parse trees each.
LINE_BYTES = 1 << 20

_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    UnicodeDecodeError,
)


@contextmanager
def readable(place: object) -> Iterator[None]:
    """Turns what goes wrong while `place` is looked at or read into UserError with the way out."""
    try:
        yield
    except OSError as error:
        where, why = error.filename or place, error.strerror or error
        raise UserError(f"{where} cannot be read ({why}); {_way_out(error)}") from error
    except _DAMAGED as error:
        raise UserError(f"{place} cannot be read ({error}); fetch it again") from error
    except RuntimeError as error:  # zipfile: encrypted, or packed in a way that it does not know
        raise UserError(f"{place} cannot be read ({error}); unpack it yourself") from error


def _way_out(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return "its owner lets others read a folder and all that it holds with chmod -R a+rX FOLDER"
    if error.errno == errno.ELOOP:
        return "put the file itself in the place of the link"
    if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG):
        return "give data.dir=FOLDER as it is spelled on the disk"
    return "fetch it again, or copy it to another disk and name that folder with data.dir=FOLDER"


def is_file(path: Location) -> bool:
    """Whether there is a regular file. Raises OSError where one may not look, which `Path.is_file` can hide."""
    return stat.S_ISREG(_mode(path)) if isinstance(path, Path) else path.is_file()


def is_folder(path: Path) -> bool:
    """Whether there is a folder. Raises OSError where one may not look."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    """The mode of what is there, 0 where nothing is."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def check_size(place: object, size: int) -> None:
    """Raises UserError where `size`, in bytes and unpacked, is more than any file of GLUE has."""
    if size > FILE_BYTES:
        raise UserError(
            f"{place} holds {size:,} bytes unpacked, more than the {FILE_BYTES:,} that a file of GLUE may have; "
            "fetch it again"
        )


def lines(path: Location) -> Iterator[tuple[int, bytes]]:
    """The file's lines with their numbers from 1, less the blank ones at its end, which carry no row.

    Read as bytes, because a text file also ends lines at a lone \\r, and splitlines() at \\x85 and \\u2028.
    Raises UserError where the file or a line is larger than any of GLUE's.
    """
    check_size(path, _declared(path))
    size, first_blank = 0, 0
    with path.open("rb") as opened:
        file = cast(BinaryIO, opened)
        number = 0
        while raw := file.readline(LINE_BYTES + 1):
            number, size = number + 1, size + len(raw)
            check_size(path, size)  # what it holds may be more than it says
            if len(raw) > LINE_BYTES:
                raise UserError(
                    f"{path}, line {number}: longer than the {LINE_BYTES:,} bytes that a line of GLUE may have; "
                    "fetch it again"
                )
            if raw in (b"\n", b"\r\n"):
                first_blank = first_blank or number
                continue
            if first_blank:
                yield from ((n, b"\n") for n in range(first_blank, number))
                first_blank = 0
            yield number, raw


def _declared(path: Location) -> int:
    """The size that the file system or the archive's directory tells, in bytes."""
    if isinstance(path, Path):
        return path.stat().st_size
    return path.root.getinfo(path.at).file_size
