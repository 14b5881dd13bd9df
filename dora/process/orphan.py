"""Workers that end with whoever launched them, since a launcher that was killed cannot tell them to.

The system gives the children of a dead process another parent. A thread of each worker looks for that twice a second,
and sends the signal that the launcher would have sent: the run stops between two steps, its checkpoint written.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

from dora.process import streams
from dora.process.signals import leave, outside

LOOK_S = 0.5
at_work = threading.Lock()  # held while a worker has a run in hand: one without ends at once


def begin_worker() -> None:
    """Prepares a worker of the local launcher for signals and for its launcher's death; its first own act."""
    outside.watch(noting=True)
    streams.keep_open()
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    _in_background(launcher.pid)


def end_with_torchrun() -> None:
    """Ends this process soon after the torchrun that started it; does nothing in any other."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        launcher = os.getppid()
        _in_background(None if launcher == 1 and not _runs_python(launcher) else launcher)


def _in_background(launcher: int | None) -> None:
    threading.Thread(target=_outlive, args=(launcher,), daemon=True).start()


def _outlive(launcher: int | None) -> None:
    """Waits for the launcher's end; None: it has ended already."""
    while os.getppid() == launcher:
        time.sleep(LOOK_S)
    if not at_work.acquire(blocking=False):
        os.kill(os.getpid(), signal.SIGTERM)
        at_work.acquire()  # for good: no run begins any more
        time.sleep(LOOK_S)  # a process with a single run is about to end by itself
    leave(signal.SIGTERM, ", since its launcher has ended; the same command goes on from here")


def _runs_python(process: int) -> bool:
    """Whether `process` runs our interpreter, as a torchrun that is the first process of a container does."""
    with contextlib.suppress(OSError):  # somebody else's process, or no /proc
        return Path(f"/proc/{process}/exe").readlink() == Path("/proc/self/exe").readlink()
    return False
