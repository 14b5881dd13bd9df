"""The frame around every command: its streams, its signals and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from dora import __version__
from dora.process import streams
from dora.process.signals import outside


def command(main: Callable[[], None], prints_only: bool = True) -> None:
    """Calls `main` as a program of its own; raises SystemExit where it ends with an exit code.

    Ctrl-C gives exit code 130 and one line. A standard output that cannot be written to, as on a
    full disk, gives exit code 1. Control characters are shown as escapes and never sent, since
    printed text comes from records, which somebody else may have written.

    `prints_only`: False for a command that keeps its results in files. Standard error is then not
    escaped, so that it may show a progress bar, and a failed standard output leaves the exit code
    alone, since the printed lines only repeat those files.

    A line of `--version` alone prints the version, so that every command knows it.
    """
    # Before anything is printed or imported by `main`: both must hold from the first line on.
    streams.keep_open(plain=prints_only)
    outside.watch()
    ended: SystemExit | None = None
    try:
        if sys.argv[1:] == ["--version"]:
            print(f"dora-glue {__version__}")
        else:
            main()
    except KeyboardInterrupt as e:
        ended = SystemExit(130)
        print(str(e) or "interrupted", file=sys.stderr)
    except SystemExit as e:
        # Kept and raised at the end: argparse exits with 0 too, and standard output is still to
        # be checked.
        ended = e
    outside.end()
    if (error := streams.write_error()) is not None:
        print(f"standard output could not be written to: {error.strerror}", file=sys.stderr)
        if prints_only and (ended is None or not ended.code):
            ended = SystemExit(1)
    if ended is not None:
        raise ended
