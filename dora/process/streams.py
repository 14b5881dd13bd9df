"""Standard streams that never end a program, even if their reader has gone or their disk is full.

A training run is worth more than the lines printed about it. The mechanism sits below every print
and below the interpreter's last flush, so that no caller has to know of it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
from typing import Any, TextIO

from dora.plain import printable

# A reader that has gone (`| head`) wants no more and is told nothing; a closed terminal gives EIO.
_GONE = {errno.EPIPE, errno.EIO}
# ASCII characters that a terminal obeys: all but line feed, tab and those that print.
_OBEYED = re.compile(r"[^\n\t -~]")


class TolerantFile(io.FileIO):
    """A file descriptor whose failed writes count as done.

    `failed`: the first failure that lost output somebody was waiting for, else None.
    """

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes `data`; where that fails, drops all of it and reports it as written."""
        try:
            return super().write(data)
        except OSError as e:
            if self.failed is None and e.errno not in _GONE:
                self.failed = e
            # The full length, or the buffer above would try again with the rest for ever.
            return memoryview(data).nbytes


class EscapingStream(io.TextIOWrapper):
    """A text stream that shows control characters as escapes instead of sending them.

    Names and messages may come from somebody else's records.
    """

    def write(self, text: str) -> int:
        """Writes `text`, with an escape for every character that a terminal would obey."""
        # The test for plain ASCII comes first because `printable` looks at each character in turn.
        harmless = text.isascii() and not _OBEYED.search(text)
        super().write(text if harmless else printable(text, kept="\n\t"))
        return len(text)  # as TextIOBase promises: characters of `text`, not of the escaped text


def keep_open(plain: bool = False) -> None:
    """Replaces standard output and standard error by streams whose failed writes are dropped.

    A character that the stream's encoding does not have is written as an escape. Standard output
    also escapes control characters. With `plain`, standard error does too, for a program that shows
    no progress bar there. A stream that somebody has already replaced is left alone.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The descriptor is closed (`>&-`). The next file to be opened would get its number,
            # and then everything that libraries print to it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = _tolerant(sys.stdout, sys.__stdout__, 1, EscapingStream)
    error_kind = EscapingStream if plain else io.TextIOWrapper
    sys.stderr = _tolerant(sys.stderr, sys.__stderr__, 2, error_kind)


def write_error() -> OSError | None:
    """Flushes standard output and returns the error that lost a part of it.

    Returns None where all was written, and where the reader has gone, which is no failure.
    """
    with contextlib.suppress(AttributeError):  # a stand-in without `flush`
        sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failed if isinstance(raw, TolerantFile) else None


def _tolerant(
    stream: TextIO | None, original: TextIO | None, number: int, kind: type[io.TextIOWrapper]
) -> TextIO:
    """Returns a stream of class `kind` for descriptor `number` in the place of `stream`.

    Returns `stream` itself where it is not the interpreter's `original`.
    """
    if stream is not original:
        return stream  # type: ignore[return-value]  # only the original is None
    if stream is None:
        # The interpreter found the descriptor closed. A library may have opened a file since, which
        # then has its number.
        return kind(io.BufferedWriter(TolerantFile(os.devnull, "wb")), "utf-8")
    # closefd=False: the descriptor outlives this object, for what others write at the very end.
    raw = io.BufferedWriter(TolerantFile(number, "wb", closefd=False))
    with contextlib.suppress(OSError):
        stream.flush()
    at_once = stream.isatty() or getattr(stream, "write_through", False) or number == 2
    return kind(raw, stream.encoding, _errors(stream), line_buffering=at_once)


def _errors(stream: TextIO) -> str:
    """Returns how a character is written that the encoding of `stream` does not have.

    Python would raise UnicodeEncodeError for ± on an ASCII or Latin-1 terminal, in the middle of a
    run as well. A way that the user has chosen, as PYTHONIOENCODING=ascii:replace, stays.
    """
    raising = stream.errors in ("strict", "surrogateescape")
    return "backslashreplace" if raising or stream.errors is None else stream.errors
