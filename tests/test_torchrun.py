"""`python -m dora.torchrun`: the exit code of the processes that torchrun started."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch.distributed.run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from dora import torchrun
from runs import python


# A process that fails takes the others with it, which then end with 75 (stopped, to be resumed). If
# that stood for all, a cluster would repeat the job for ever.
@pytest.mark.parametrize(
    ("codes", "code"),
    [({75}, 75), ({1, 75}, 1), ({2, 75}, 2), ({1, 2}, 2), ({1}, 1), ({-9, 75}, 75), ({-9}, 1)],
)
def test_the_process_that_failed_or_was_refused_speaks_for_all(codes: set[int], code: int) -> None:
    assert torchrun.together(codes) == code


def failure(rank: int, code: int) -> ProcessFailure:
    """Returns torchrun's note of a process that ended with this code."""
    return ProcessFailure(rank, rank + 1, code, "")


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (SignalException("told", signal.SIGTERM), 75),
        (SignalException("told", signal.SIGHUP), 75),
        (SignalException("told", signal.SIGINT), 130),
        (SignalException("told", signal.SIGQUIT), 1),
        (ChildFailedError("dora.run", {0: failure(0, 75), 1: failure(1, 1)}), 1),
        (ChildFailedError("dora.run", {0: failure(0, 1)}), 1),
    ],
)
def test_a_launcher_that_was_told_to_stop_ends_as_a_run_does(
    ends: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        raise ends

    # `main` sets a handler for SIGUSR2 and never removes it, since its process ends with it.
    before = signal.getsignal(signal.SIGUSR2)
    monkeypatch.setattr(torch.distributed.run, "main", run)
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30")
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
    try:
        with pytest.raises(SystemExit) as end:
            torchrun.main()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert end.value.code == code
    # Torchrun's own 30 s may end within an evaluation, which no checkpoint can interrupt.
    assert os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "600"


@pytest.mark.slow
def test_the_exit_code_of_processes_is_that_of_their_launcher(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text("import sys; sys.exit(75)")
    done = python("-m", "dora.torchrun", "--standalone", "--nproc_per_node=2", str(script))
    assert done.returncode == 75
    assert "Traceback" not in done.stderr  # torchrun prints one for every failed process
