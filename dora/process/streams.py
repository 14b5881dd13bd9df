"""Standard streams that never end a program: their reader may have gone, and their disk may be full.

Training is worth more than what is said about it. One mechanism, below every print and the interpreter's last flush.
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

# A reader that has gone (`| head`) wants no more and is told nothing; a terminal that was closed gives EIO.
_GONE = {errno.EPIPE, errno.EIO}
_OBEYED = re.compile(r"[^\n\t -~]")  # of ASCII


class Lasting(io.FileIO):
    """A file descriptor whose failed writes count as done. `failed`: the first failure that loses what someone wanted."""

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes, or drops, all of `data`."""
        try:
            return super().write(data)
        except OSError as e:
            if self.failed is None and e.errno not in _GONE:
                self.failed = e
            return memoryview(data).nbytes


class Plain(io.TextIOWrapper):
    """A stream that shows control characters instead of sending them: names and messages may be somebody else's."""

    def write(self, text: str) -> int:
        """Writes `text`, as it is but for what a terminal would obey."""
        super().write(
            text if text.isascii() and not _OBEYED.search(text) else printable(text, kept="\n\t")
        )
        return len(text)


def keep_open(plain: bool = False) -> None:
    """Makes standard output and error such streams. Does nothing to a stream that somebody has put in their place.

    Standard output is `Plain` too, and with `plain` standard error, for a program that shows no bar there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Closed (`>&-`): the next file to be opened would take its number, and what others print.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = _lasting(sys.stdout, sys.__stdout__, 1, Plain)
    sys.stderr = _lasting(sys.stderr, sys.__stderr__, 2, Plain if plain else io.TextIOWrapper)


def lost() -> OSError | None:
    """Why something that was written to standard output is not there, though its reader is."""
    with contextlib.suppress(AttributeError):
        sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failed if isinstance(raw, Lasting) else None


def _lasting(
    stream: TextIO | None, original: TextIO | None, number: int, kind: type[io.TextIOWrapper]
) -> TextIO:
    if stream is not original:
        return stream  # type: ignore[return-value]  # only the original is None
    raw = io.BufferedWriter(Lasting(number, "wb", closefd=False))
    if stream is None:
        return kind(raw, "utf-8")
    with contextlib.suppress(OSError):
        stream.flush()
    at_once = stream.isatty() or getattr(stream, "write_through", False) or number == 2
    return kind(raw, stream.encoding, stream.errors, line_buffering=at_once)
