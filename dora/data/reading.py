"""Reading of files that somebody else made: presence, errors with a way out, sizes and lines.

Two limits keep a damaged or hostile file from filling the memory. Both lie far above GLUE's own
files. They are checked against the size that a file declares and against the bytes really read.
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

from dora.checked_files import LFS_POINTER
from dora.errors import UserError

Location = Path | zipfile.Path

# GLUE's largest file, MNLI's train.tsv with its parse trees, has some hundred megabytes.
FILE_BYTES = 1 << 30
# GLUE's longest texts have some thousand characters, and MNLI repeats each in two parse trees.
LINE_BYTES = 1 << 20

# Raised by zipfile and its decompressors, and by decoding, for damaged content.
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
    """Turns errors of looking at or reading `place` into UserError with the way out."""
    try:
        yield
    except OSError as error:
        # The error's own file name is the more exact one: `place` may be a folder above it.
        where, why = error.filename or place, error.strerror or error
        raise UserError(f"{where} cannot be read ({why}); {_way_out(error)}") from error
    except _DAMAGED as error:
        raise UserError(f"{place} cannot be read ({error}); fetch it again") from error
    except RuntimeError as error:  # zipfile's, for an encrypted or unknown kind of member
        raise UserError(f"{place} cannot be read ({error}); unpack it yourself") from error


def _way_out(error: OSError) -> str:
    """Returns the advice for an error of the file system."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return "its owner lets others read a folder and all that it holds with chmod -R a+rX FOLDER"
    if error.errno == errno.ELOOP:
        return "put the file itself in the place of the link"
    if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG):
        return "give data.dir=FOLDER as it is spelled on the disk"
    return "fetch it again, or copy it to another disk and name that folder with data.dir=FOLDER"


def is_file(path: Location) -> bool:
    """Returns True where `path` is a regular file.

    Raises OSError where one may not look there, which `Path.is_file` can hide.
    """
    return stat.S_ISREG(_mode(path)) if isinstance(path, Path) else path.is_file()


def is_folder(path: Path) -> bool:
    """Returns True where `path` is a folder. Raises OSError where one may not look there."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    """Returns the mode bits of `path`, 0 where nothing is there."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # the latter: a part of the path is a file
        return 0


def is_no_data(start: bytes) -> bool:
    """Tells whether a file begins as a web page or a Git LFS pointer does.

    A failed download leaves an error page, and a clone without git-lfs a pointer, under the file's
    name.
    """
    return start.startswith((b"<", LFS_POINTER))


def check_size(place: object, size: int) -> None:
    """Raises UserError where `size`, in unpacked bytes, is more than any file of GLUE has."""
    if size > FILE_BYTES:
        raise UserError(
            f"{place} holds {size:,} bytes unpacked, more than the {FILE_BYTES:,} "
            "that a file of GLUE may have; fetch it again"
        )


def lines(path: Location) -> Iterator[tuple[int, bytes]]:
    """Yields each line's number, from 1, and its bytes, less the blank lines at the file's end.

    Blank lines at the end carry no row; those before another line are yielded as b"\\n". Raises
    UserError where the file or a line is larger than any of GLUE's.
    """
    check_size(path, _declared(path))
    size = 0
    first_blank = 0  # number of the first line of the current run of blank lines, 0 outside one
    # Bytes, because a text file also ends lines at a lone \r, and splitlines() at \x85 and \u2028.
    with path.open("rb") as opened:
        file = cast(BinaryIO, opened)
        number = 0
        # One byte more than the limit: a line of just that length is too long.
        while raw := file.readline(LINE_BYTES + 1):
            number, size = number + 1, size + len(raw)
            check_size(path, size)  # the content may be larger than the declared size
            if len(raw) > LINE_BYTES:
                raise UserError(
                    f"{path}, line {number}: longer than the {LINE_BYTES:,} bytes "
                    "that a line of GLUE may have; fetch it again"
                )
            # Held back until another line follows.
            if raw in (b"\n", b"\r\n"):
                first_blank = first_blank or number
                continue
            if first_blank:
                yield from ((n, b"\n") for n in range(first_blank, number))
                first_blank = 0
            yield number, raw


def _declared(path: Location) -> int:
    """Returns the size in bytes that the file system or the archive's directory declares."""
    if isinstance(path, Path):
        return path.stat().st_size
    return path.root.getinfo(path.at).file_size
