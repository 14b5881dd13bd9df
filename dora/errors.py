"""Errors that the user should hear about, each with its exit code."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# The way out of a key that is unknown and like no other, for the command line and for Python.
ALL_KEYS = "--help and docs/settings.md list the keys"

# Failures of the disk under a run; any other OSError is unforeseen. TEMPORARY ones pass: somebody
# makes room, a server comes back. _LASTING ones stay until a setting, a right or a disk is changed.
# EIO may come from a server too, but counts as lasting: with a broken disk a cluster would repeat
# the job for ever.
TEMPORARY = {errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN}
_LASTING = {errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
# Gloo and NCCL say this when another process of the group was killed or has failed.
_PEER_ENDED = re.compile(r"Connection (closed|reset) by peer|remote process exited")
_OUT_OF_MEMORY = re.compile(
    r"OutOfMemory|out of memory|MemoryError|bad_alloc|can't allocate memory"
    r"|could not create a (primitive|memory)"  # from oneDNN, on a CPU
)


class UserError(Exception):
    """A mistake in the user's request, with all problems found, not only the first; exit code 2."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        many = len(problems) > 1  # a single problem needs no list mark
        super().__init__("\n".join(f"  - {p}" if many else p for p in problems))

    def under(self, heading: str) -> str:
        """Returns a single problem behind the heading, or the list of several below it."""
        return f"{heading}\n{self}" if len(self.problems) > 1 else f"{heading} {self}"


def attempt(action: Callable[[], T], problems: list[str]) -> T | None:
    """Returns the result of `action`; notes a UserError or ValueError and returns None.

    `problems`: those found so far, each once, so that all of them come in one message.
    """
    try:
        return action()
    except (UserError, ValueError) as e:
        new = e.problems if isinstance(e, UserError) else (str(e),)
        problems += [text for text in dict.fromkeys(new) if text not in problems]
    return None


def reason(error: BaseException) -> str:
    """Returns the class and the message of another library's error, on one line.

    The message is cut to 300 characters; the class stands alone where there is none. A failed
    import is told by its first cause: Transformers says no more than that it failed.
    """
    while isinstance(error, ImportError) and error.__cause__ is not None:
        error = error.__cause__
    kind, message = type(error).__name__, " ".join(str(error).split())[:300]
    return f"{kind}: {message}" if message else kind


class RunFailed(Exception):
    """A run that ended without a result to report, such as one that missed its budget; exit code 1.

    `status`: what run.json says of a run that ended with this error.
    """

    exit_code = 1
    status = "failed"


class Diverged(RunFailed):
    """A run whose loss, gradients, weights or scores are no longer finite."""

    # It ends with RunFailed's exit code. Three more places would have to know another one:
    # `refuse_diverged` of records/record.py and `Sweep.end` raise RunFailed for such runs, and
    # `together` of dora/torchrun.py returns no other code of a failure than RunFailed's.
    status = "diverged"


class Stopped(Exception):
    """A run stopped by a signal, with its checkpoint written; exit code 75.

    The same command resumes the run.
    """

    exit_code = 75
    status = "stopped"


class NotNow(Stopped):
    """An obstacle outside the run that will pass; exit code 75.

    Examples are a full disk and another process at work in the run's directory. The same command
    takes the run up later. The error ends this run, but not the sweep that the run belongs to.
    """


class PeerEnded(NotNow):
    """The end of another process of the run, which may have left its reason with the group."""


def foreseen(
    error: BaseException,
    saved: int,
    batch_size: int,
    grad_accum: int,
    max_length: int,
    evaluated: int,
    processes: int = 1,
) -> RunFailed | NotNow | None:
    """Translates an error of the disk, of memory or of another process into one for the user.

    Returns None for any other error. `saved`: the step of the newest checkpoint, 0 for none.
    `evaluated`: the rows of an evaluation that are computed at a time. `processes`: of this run.
    """
    at = f"after step {saved}" if saved else "at its start"
    if isinstance(error, OSError) and error.errno in TEMPORARY | _LASTING:
        where = f" at {error.filename}" if error.filename else ""
        kind = NotNow if error.errno in TEMPORARY else RunFailed
        return kind(
            f"{error.strerror}{where}; once that is mended, the same command takes the run up {at}"
        )
    # With the type's name, since a MemoryError often has no text.
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, RuntimeError) and _PEER_ENDED.search(text):
        return PeerEnded(
            "another process of this run ended before its time; "
            f"the same command takes the run up {at}"
        )
    if isinstance(error, MemoryError | RuntimeError) and _OUT_OF_MEMORY.search(text):
        share = -(-batch_size // processes)
        return _out_of_memory(batch_size, share, grad_accum, max_length, evaluated)
    return None


def _out_of_memory(
    batch_size: int, share: int, grad_accum: int, max_length: int, evaluated: int
) -> RunFailed:
    """Returns the error for a full memory, with the settings that need less, gentlest first.

    `share`: the rows of a batch that one process has.
    """
    rows = -(-share // grad_accum)  # rounded up: the largest part
    ways = []
    if rows > 1:
        ways.append(f"grad_accum={2 * grad_accum} (the same steps, in parts of {-(-rows // 2)})")
    if batch_size > 1:
        ways.append(f"batch_size={batch_size // 2}")
    ways.append(f"max_length={max_length // 2}")
    more = f" ({evaluated} in an evaluation, where only a smaller max_length helps)"
    return RunFailed(
        f"out of memory with {rows} examples of up to {max_length} tokens at a time"
        f"{more if evaluated > rows else ''}: try {' or '.join(ways)}"
    )
