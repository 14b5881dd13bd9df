"""Workers that end when their launcher dies, since a killed launcher cannot tell them to.

The system gives the children of a dead process another parent. A thread of each worker looks for
that twice a second and sends the worker the signal that the launcher would have sent: the run
stops between two steps and its checkpoint is written.
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
at_work = threading.Lock()  # held while a worker trains a run; a worker without one ends at once


def begin_worker() -> None:
    """Prepares a worker of the local launcher for signals and for the death of its launcher.

    A worker calls it before anything else.
    """
    outside.watch(noting=True)
    streams.keep_open()
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    # The launcher's id as multiprocessing passed it on: os.getppid() would give another process
    # where the launcher has died already.
    _in_background(launcher.pid)


def end_with_torchrun() -> None:
    """Has this process end soon after the torchrun that started it, if one did."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        launcher = os.getppid()
        # Parent 1 is the system's first process, which adopts orphans: torchrun has died already.
        # In a container, though, torchrun itself may be process 1.
        _in_background(None if launcher == 1 and not _runs_python(launcher) else launcher)


def _in_background(launcher: int | None) -> None:
    threading.Thread(target=_outlive, args=(launcher,), daemon=True).start()


def _outlive(launcher: int | None) -> None:
    """Waits until the launcher has ended, then ends this process.

    `launcher`: its process id, None where it has ended already.
    """
    while os.getppid() == launcher:
        time.sleep(LOOK_S)
    if not at_work.acquire(blocking=False):
        os.kill(os.getpid(), signal.SIGTERM)
        at_work.acquire()  # never released, so that no further run begins
        time.sleep(LOOK_S)  # a process with a single run is about to end by itself
    leave(signal.SIGTERM, ", since its launcher has ended; the same command goes on from here")


def _runs_python(process: int) -> bool:
    """Returns True where `process` runs the Python interpreter that this process runs.

    A torchrun that is the first process of a container does.
    """
    with contextlib.suppress(OSError):  # another user's process, or a system without /proc
        return Path(f"/proc/{process}/exe").readlink() == Path("/proc/self/exe").readlink()
    return False
