"""Starts several processes of one run as `torchrun` does, and ends with the exit code of these.

python -m dora.torchrun --nproc_per_node=2 -m dora.run task=… method=…

Every option of torchrun works; torchrun itself ends with 1 however its processes end.
Exit 0 done, 1 failed, 2 bad configuration, 75 stopped and resumable, 130 interrupted.
"""

from __future__ import annotations

from dora.process.signals import outside

if __name__ == "__main__":
    # Before the other imports: importing torch takes seconds.
    outside.watch(" while nothing was trained; the same command goes on from here")

import os
import signal
import sys

from dora.errors import RunFailed, Stopped, UserError
from dora.process.command import command
from dora.process.signals import EXITS


def main() -> None:
    """Hands the command line to torchrun, and exits as its processes ended."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # Under nohup SIGHUP is ignored, which torchrun would undo.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        os.environ.setdefault("PET_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGQUIT")
    # Torchrun would kill them 30 s after a signal, in the middle of an evaluation perhaps.
    # Earlier versions than PyTorch 2.13 may not know the variable.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    # Torchrun passes SIGTERM, SIGHUP and SIGINT on to its processes and waits for them. It does not
    # know SIGUSR2, with which a cluster announces its time limit.
    signal.signal(signal.SIGUSR2, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        torchrun()
    except SignalException as e:
        sys.exit(EXITS.get(e.sigval, (RunFailed.exit_code,))[0])
    except ChildFailedError as e:
        sys.exit(together({failure.exitcode for failure in e.failures.values()}))


def together(codes: set[int]) -> int:
    """Returns one exit code for processes that ended with `codes`.

    A process that fails, or is refused, ends the others, which call that being stopped. One that was
    killed does so too; they can be resumed.
    """
    order = (UserError.exit_code, RunFailed.exit_code, Stopped.exit_code)
    return next((code for code in order if code in codes), RunFailed.exit_code)


if __name__ == "__main__":
    command(main, prints_only=False)
