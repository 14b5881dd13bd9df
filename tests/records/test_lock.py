"""Locks on file systems and machines that are not as most are."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dora.errors import NotNow, Stopped
from dora.process import machine
from dora.records import lock
from dora.records.lock import Lock, held


@pytest.fixture
def local_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines that share a folder where flock reaches neither from the other.

    Leases are renewed ten times a second.
    """
    monkeypatch.setattr(lock, "RENEW_S", 0.1)
    # As on a file system that grants every lock: success, and no protection.
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)


def elsewhere(patch: pytest.MonkeyPatch, host: str | None = None) -> None:
    """Makes this machine another one, of the same name unless `host` is given."""
    patch.setattr(machine, "boot", lambda: "another start")
    if host is not None:
        patch.setattr(socket, "gethostname", lambda: host)


@pytest.mark.usefixtures("local_flock")
@pytest.mark.parametrize("host", [None, "elsewhere"])
def test_a_machine_at_work_is_respected_though_its_name_is_ours_and_flock_does_not_tell(
    host: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there = Lock(tmp_path)
    with monkeypatch.context() as patch:
        elsewhere(patch, host)
        there.take()
    assert held(tmp_path) is not None
    with pytest.raises(
        NotNow, match=rf"in use by process {os.getpid()} on .*; try again when that has ended"
    ):
        Lock(tmp_path).take()
    # The other machine dies: its lease is renewed no more, and its lock file stays.
    there._end.set()
    there._file.close()
    capsys.readouterr()
    mine = Lock(tmp_path)
    mine.take()
    mine.release()
    # "0 s", since leases last a tenth of a second here.
    (said,) = capsys.readouterr().err.splitlines()
    name = f"process {os.getpid()} on {host or socket.gethostname()}"
    assert said == f"waits up to 0 s to see whether {name} is still at work in {tmp_path}"


@pytest.mark.usefixtures("local_flock")
def test_of_two_that_began_at_once_one_soon_knows_that_it_has_lost(tmp_path: Path) -> None:
    first = Lock(tmp_path)
    first.take()
    other = {"host": "elsewhere", "boot": "another", "numbering": None, "pid": 7, "token": "0"}
    (tmp_path / lock.NAME).write_text(json.dumps(other))
    # The first look comes after a tenth of a second here; 2 s are plenty on a busy machine.
    for _ in range(100):
        if first.lost:
            break
        first._end.wait(0.02)
    assert first.lost == "process 7 on elsewhere"
    first.release()


def test_a_process_is_looked_for_only_where_its_number_means_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lock(tmp_path).take()
    # In another container the number may be that of a living process, or of none.
    monkeypatch.setattr(machine, "lives", lambda pid: False)
    assert held(tmp_path) is None
    monkeypatch.setattr(machine, "numbering", lambda: "another container's")
    assert held(tmp_path) == f"process {os.getpid()} on {socket.gethostname()}"


HOLDER = {"host": "elsewhere", "pid": 7, "token": "0"}
DAMAGED: dict[str, Callable[[Path], Any]] = {
    "pid is text": lambda p: p.write_text(json.dumps({**HOLDER, "pid": "7"})),
    # A signal to -1 would reach every process of the user.
    "pid is every process": lambda p: p.write_text(json.dumps({**HOLDER, "pid": -1})),
    "pid is no number of the system": lambda p: p.write_text(json.dumps({**HOLDER, "pid": 10**30})),
    "host is a list": lambda p: p.write_text(json.dumps({**HOLDER, "host": ["a"]})),
    # The holder's name is printed.
    "host moves the cursor": lambda p: p.write_text(json.dumps({**HOLDER, "host": "a\x1b[2Jb"})),
    "too deep": lambda p: p.write_text("[" * 3000),
    # Larger than a lock file is read.
    "too large": lambda p: p.write_text(json.dumps({**HOLDER, "more": "x" * 5000})),
    "a list": lambda p: p.write_text("[1]"),
    "no text": lambda p: p.write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_lock_file_is_nobodys_and_taken(damage: str, tmp_path: Path) -> None:
    DAMAGED[damage](tmp_path / lock.NAME)
    assert held(tmp_path) is None
    mine = Lock(tmp_path)
    mine.take()
    assert held(tmp_path) is not None
    mine.release()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_lock_that_is_no_file_is_refused_and_nothing_behind_it_touched(
    kind: str, tmp_path: Path
) -> None:
    # What a link leads to would be truncated when the lock is taken.
    (tmp_path / "mine").write_text("precious")
    path = tmp_path / lock.NAME
    {
        "link": lambda: path.symlink_to("mine"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()
    assert held(tmp_path) is None
    with pytest.raises(OSError, match=r"symbolic links|Invalid argument|Illegal seek|directory"):
        Lock(tmp_path).take()
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize(
    "number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF]
)
def test_without_flock_the_lease_alone_serves(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock, "RENEW_S", 0.05)
    # A second of waiting for a rival becomes a fiftieth.
    wait = lock.time.sleep
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: wait(min(seconds, 0.02)))
    monkeypatch.setattr(fcntl, "flock", none)
    first = Lock(tmp_path)
    first.take()
    with pytest.raises(NotNow, match="in use by process"):
        Lock(tmp_path).take()
    first.release()


def test_a_signal_ends_the_wait_for_another_hosts_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"host": "elsewhere", "boot": "b", "numbering": "n", "pid": 7, "token": "0"}
    (tmp_path / lock.NAME).write_text(json.dumps(other))
    # The wait lasts three times as long, so a test that passes at once has not waited to the end.
    monkeypatch.setattr(lock, "RENEW_S", 0.5)
    monkeypatch.setattr(lock.outside, "stopping", True)
    with pytest.raises(Stopped, match="while it waited for another host's lease"):
        Lock(tmp_path).take()
    # Nothing was taken: the other host's lease is untouched.
    assert json.loads((tmp_path / lock.NAME).read_text()) == other
