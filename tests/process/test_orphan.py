"""Workers end with their launcher, whenever it dies and whether or not they train a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from dora.process import orphan

# A launcher that is going to be killed; its worker has a run in hand, or none.
LAUNCHER = """
import os, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdout=sys.stderr)
print("launched", flush=True)
worker.wait()
"""
IDLE = """
import time
from dora.process.orphan import end_with_torchrun
from dora.process.signals import outside
outside.watch()
end_with_torchrun()
print("ready", flush=True)
time.sleep(60)
"""
AT_WORK = """
import time
from dora.process.orphan import at_work, end_with_torchrun
from dora.process.signals import StopSignals, outside
outside.watch()
end_with_torchrun()
with at_work, StopSignals() as signals:
    print("ready", flush=True)
    while signals.received is None:
        time.sleep(0.01)
    time.sleep(0.2)
    print("checkpoint", signals.received, flush=True)
"""


def launched(worker: str, ready: bool = True) -> Any:
    """Starts a launcher with one worker and returns the launcher's process.

    `ready`: waits until the worker has printed "ready"; else returns before its first line.
    """
    environ = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}
    launcher: Any = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, worker],
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert launcher.stdout.readline() == "launched\n"
    if ready:
        assert launcher.stderr.readline() == "ready\n"
    return launcher


def ended(launcher: Any) -> str:
    """Kills the launcher and returns the rest of its worker's output, which ends within 10 s."""
    launcher.kill()
    # Waits until the worker, too, has closed its end of the pipe.
    _, said = launcher.communicate(timeout=10)
    return str(said)


def test_a_worker_without_a_run_ends_at_once_with_its_launcher() -> None:
    launcher = launched(IDLE)
    assert (
        ended(launcher)
        == "stopped, since its launcher has ended; the same command goes on from here\n"
    )


def test_a_worker_that_trains_is_told_as_its_launcher_would_have_told_it() -> None:
    launcher = launched(AT_WORK)
    assert ended(launcher) == f"checkpoint {int(signal.SIGTERM)}\n"


def test_a_worker_ends_whose_launcher_died_before_it_could_look() -> None:
    launcher = launched("import time; time.sleep(0.5)\n" + IDLE, ready=False)
    # In a container the first process may well be a launcher that runs Python.
    if not orphan._runs_python(1):
        assert "stopped, since its launcher has ended" in ended(launcher)


def test_no_process_but_a_launchers_worker_is_ended_with_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(
        orphan, "_in_background", lambda launcher: pytest.fail(f"watches {launcher}")
    )
    orphan.end_with_torchrun()
