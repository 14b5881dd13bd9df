"""The frame around every command: its streams, its signals, its exit code and its words."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from dora.errors import NotNow, RunFailed, UserError
from dora.package import __version__
from dora.process import streams
from dora.process.signals import outside

# The environment variable that holds the command line that was typed, for the processes that a
# command starts: a launcher's workers and a cluster's jobs have other command lines.
TYPED = "DORA_GLUE_COMMAND"
# The exit code of a command that did its work and found something missing, left out or damaged:
# neither 0, success, nor 1, failure, so that a script tells the three apart.
INCOMPLETE = 3
_LONGEST = 100_000  # bytes; Linux starts no process that has a variable of 131,072


def command(main: Callable[[], None], prints_only: bool = True) -> None:
    """Calls `main` as a program of its own; raises SystemExit where it ends with an exit code.

    An error for the user gives its message and its exit code, Ctrl-C one line and 130. A standard
    output that cannot be written to, as on a full disk, gives exit code 1. Control characters are
    shown as escapes and never sent, since printed text comes from records, which somebody else may
    have written.

    `prints_only`: False for a command that keeps its results in files. Standard error is then not
    escaped, so that it may show a progress bar, and a failed standard output leaves the exit code
    alone, since the printed lines only repeat those files. Processes that it starts know its line
    (`typed`).

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
            with contextlib.nullcontext() if prints_only else _passed_on():
                main()
    except KeyboardInterrupt as e:
        ended = SystemExit(130)
        print(str(e) or "interrupted", file=sys.stderr)
    except (UserError, RunFailed, NotNow) as e:
        ended = SystemExit(e.exit_code)
        print(e, file=sys.stderr)
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


def path(text: str) -> Path:
    """Returns the path that an option gives. Raises ArgumentTypeError where it names nothing.

    `Path("")` is the folder where one stands, which nobody means by `--to=$TO` without a TO.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty, as a shell's variable that is not set")
    return Path(text)


def typed() -> str:
    """Returns the command line that was typed, for a process of a sweep that of the sweep."""
    return os.environ.get(TYPED) or _own()


def _own() -> str:
    """Returns this process's command line as a shell takes it."""
    # `python -m dora.run` leaves the path of run.py in argv[0]; the module's spec knows its name.
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    words = sys.argv
    if spec is not None:
        words = ["-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]]
    return shlex.join([os.path.basename(sys.executable), *words])


@contextlib.contextmanager
def _passed_on() -> Iterator[None]:
    """Has `typed` return this process's line in the processes that it starts, and in itself."""
    before, line = os.environ.get(TYPED), _own()
    # The line that `dora.torchrun` has noted stands for its processes as well.
    kept = before is not None and "TORCHELASTIC_RUN_ID" in os.environ
    if not kept and len(os.fsencode(line)) < _LONGEST:
        os.environ[TYPED] = line
    try:
        yield
    finally:
        os.environ.pop(TYPED, None)
        if before is not None:
            os.environ[TYPED] = before
