"""Failures around a run that are foreseen: of the disk, of memory, and of another process."""

from __future__ import annotations

import errno
import re

from dora.configuration.config import Config
from dora.errors import TEMPORARY, NotNow, PeerEnded, RunFailed

# Failures of the disk that stay until a setting, a right or a disk is changed. EIO may come from a
# server too, but counts as lasting: with a broken disk a cluster would repeat the job for ever.
_LASTING = {errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
# Gloo and NCCL say this when another process of the group was killed or has failed.
_PEER_ENDED = re.compile(r"Connection (closed|reset) by peer|remote process exited")
_OUT_OF_MEMORY = re.compile(
    r"OutOfMemory|out of memory|MemoryError|bad_alloc|can't allocate memory"
    r"|could not create a (primitive|memory)"  # from oneDNN, on a CPU
)


def foreseen(
    error: BaseException, saved: int, config: Config, evaluated: int, processes: int
) -> RunFailed | NotNow | None:
    """Returns such a failure as an error for the user, with the way on; None for any other error.

    `saved`: the step of the newest checkpoint, 0 for none. `evaluated`: the rows of an evaluation
    that each process computes at a time. `processes`: of this run.
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
        return _out_of_memory(config, evaluated, processes)
    return None


def _out_of_memory(config: Config, evaluated: int, processes: int) -> RunFailed:
    """Returns the error for a full memory, with the settings that need less, gentlest first."""
    share = -(-config.batch_size // processes)
    rows = -(-share // config.grad_accum)  # rounded up: the largest part
    ways = []
    if rows > 1:
        parts = 2 * config.grad_accum
        ways.append(f"grad_accum={parts} (the same steps, in parts of {-(-rows // 2)})")
    if config.batch_size > 1:
        ways.append(f"batch_size={config.batch_size // 2}")
    ways.append(f"max_length={config.max_length // 2}")
    more = f" ({evaluated} in an evaluation, where only a smaller max_length helps)"
    return RunFailed(
        f"out of memory with {rows} examples of up to {config.max_length} tokens at a time"
        f"{more if evaluated > rows else ''}: try {' or '.join(ways)}"
    )
