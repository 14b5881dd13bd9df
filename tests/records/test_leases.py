"""Locks of run directories: who may work where, also between hosts that share a disk."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dora.errors import NotNow, RunFailed
from dora.records import lock
from dora.records.lock import Lock, held
from dora.records.record import Record


def test_the_second_on_one_host_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    first, second = Lock(tmp_path), Lock(tmp_path)
    first.take()
    assert held(tmp_path) == f"process {os.getpid()} on {socket.gethostname()}"
    with pytest.raises(NotNow, match=f"in use by process {os.getpid()} on"):
        second.take()
    first.release()
    assert held(tmp_path) is None
    second.take()
    second.release()


def test_a_dead_process_on_this_host_never_stands_in_the_way(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from dora.records.lock import Lock; "
        "Lock(Path(sys.argv[1])).take(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert held(tmp_path) is None  # its lease is fresh, its process is gone
    began = time.monotonic()
    mine = Lock(tmp_path)
    mine.take()
    assert time.monotonic() - began < 1
    mine.release()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renews leases ten times a second, and takes flock away, as some file systems lack it."""

    def refused(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock, "RENEW_S", 0.1)
    monkeypatch.setattr(fcntl, "flock", refused)


def die(there: Lock) -> None:
    """Ends a lock as a SIGKILL of its process does: the lease stays, and is not renewed."""
    there._end.set()
    there._file.close()
    time.sleep(0.2)  # longer than a renewal


@pytest.mark.usefixtures("quick")
def test_another_hosts_lease_is_respected_while_it_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Lock(tmp_path)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        there.take()
    with pytest.raises(NotNow, match="on elsewhere"):
        Lock(tmp_path).take()
    die(there)
    mine = Lock(tmp_path)
    mine.take()
    assert "elsewhere" not in str(held(tmp_path))
    mine.release()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_jumps_neither_takes_nor_keeps_a_lease(
    hours: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Lock(tmp_path)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        there.take()
    # The two hosts' clocks differ, so a lease's age means nothing; only its changes do.
    then = time.time() + 3600 * hours
    os.utime(tmp_path / lock.NAME, (then, then))
    with pytest.raises(NotNow, match="on elsewhere"):  # it lives: it is renewed while we watch
        Lock(tmp_path).take()
    die(there)
    os.utime(tmp_path / lock.NAME, (then, then))
    mine = Lock(tmp_path)  # it is dead, wherever the clock stands
    mine.take()
    mine.release()


@pytest.mark.usefixtures("quick")
def test_who_was_halted_and_taken_over_writes_nothing_more(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.open({})
    before = (tmp_path / "run.json").read_bytes()
    # As another host leaves it that took over while this one was suspended.
    other = {"host": "elsewhere", "pid": 7, "token": "0"}
    (tmp_path / lock.NAME).write_text(json.dumps(other))
    end = time.monotonic() + 5
    while record.taken_by is None and time.monotonic() < end:
        time.sleep(0.05)
    for write in (lambda: record.update(status="done"), record.sync):
        with pytest.raises(RunFailed, match="taken over by process 7 on elsewhere"):
            write()
    record.close()
    assert (tmp_path / "run.json").read_bytes() == before
    assert json.loads((tmp_path / lock.NAME).read_text()) == other
