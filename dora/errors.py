"""What can go wrong in a way the user should hear about, each with its exit code."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import Any

# What can befall the disk under a run; any other OSError is one that nobody foresaw. The first ones pass: somebody makes
# room, a server comes back. The others stay until a setting, a right or a disk is changed. EIO may be a server's too,
# but a broken disk must not have a cluster repeat the job for ever.
TEMPORARY = {errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN}
_LASTING = {errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
# Gloo's and NCCL's words for a process of the group that was killed, or has failed.
_PEER_ENDED = re.compile(r"Connection (closed|reset) by peer|remote process exited")
_OUT_OF_MEMORY = re.compile(
    r"OutOfMemory|out of memory|MemoryError|bad_alloc|can't allocate memory"
    r"|could not create a (primitive|memory)"  # oneDNN's, on a CPU
)


class UserError(Exception):
    """A mistake in what was asked for. Holds every problem found, not only the first; exit code 2."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        many = len(problems) > 1
        super().__init__("\n".join(f"  - {p}" if many else p for p in problems))


class RunFailed(Exception):
    """The run ended without a result it may report (divergence, a missed budget); exit code 1."""

    exit_code = 1


class Stopped(Exception):
    """A signal asked the run to stop; its checkpoint is written and the same command resumes it; exit code 75.

    `hand_over`: passes the signal on to who handled it before the run, such as a cluster's requeueing.
    `result`: run.json of a run that had no step left to train when the signal came, and is done; else None.
    """

    exit_code = 75
    hand_over: Callable[[], None] = staticmethod(lambda: None)
    result: dict[str, Any] | None = None


class NotNow(Stopped):
    """Something outside stands in the way and will pass, such as a full disk or another process at work in the run's
    directory; the same command later takes the run up. It ends this run, not the sweep it is one of.
    """


def foreseen(
    error: BaseException, saved: int, batch_size: int, grad_accum: int, max_length: int
) -> RunFailed | NotNow | None:
    """What a disk or a memory that is full, and the like, mean to the user; None for any other error.

    `saved`: the step of the newest checkpoint, 0 for none.
    """
    if isinstance(error, OSError) and error.errno in TEMPORARY | _LASTING:
        at = f"after step {saved}" if saved else "at its start"
        where = f" at {error.filename}" if error.filename else ""
        kind = NotNow if error.errno in TEMPORARY else RunFailed
        return kind(
            f"{error.strerror}{where}; once that is mended, the same command takes the run up {at}"
        )
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, RuntimeError) and _PEER_ENDED.search(text):
        at = f"after step {saved}" if saved else "at its start"
        return NotNow(
            f"another process of this run ended before its time; the same command takes the run up {at}"
        )
    if isinstance(error, MemoryError | RuntimeError) and _OUT_OF_MEMORY.search(text):
        rows = -(-batch_size // grad_accum)
        ways = [f"max_length={max_length // 2}"]
        if batch_size > 1:
            ways.insert(0, f"batch_size={batch_size // 2}")
        if rows > 1:
            ways.insert(
                0, f"grad_accum={2 * grad_accum} (the same steps, in parts of {-(-rows // 2)})"
            )
        return RunFailed(
            f"out of memory with {rows} examples of up to {max_length} tokens at a time: try {' or '.join(ways)}"
        )
    return None
