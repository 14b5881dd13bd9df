"""How every command begins and ends, whatever it does: its streams, its signals, its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from dora.process import streams
from dora.process.signals import outside


def command(main: Callable[[], None], prints_only: bool = True) -> None:
    """Calls `main` as a program of its own.

    Exit code 130 with one line after Ctrl-C, 1 where standard output could not be written to, as on a full disk. Control
    characters are shown, not sent: what is printed comes from records. With `prints_only` False standard error may have a bar, what is printed only tells what is kept elsewhere, and the exit code says nothing of it.
    """
    streams.keep_open(plain=prints_only)
    outside.watch()
    ended: SystemExit | None = None
    try:
        main()
    except KeyboardInterrupt as e:
        ended = SystemExit(130)
        print(str(e) or "interrupted", file=sys.stderr)
    except SystemExit as e:
        ended = e
    outside.end()
    if (error := streams.lost()) is not None:
        print(f"standard output could not be written to: {error.strerror}", file=sys.stderr)
        if prints_only and (ended is None or not ended.code):
            ended = SystemExit(1)
    if ended is not None:
        raise ended
