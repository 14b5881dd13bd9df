"""One process on a run directory at a time, also where several hosts share the folder.

Two things together. The kernel's flock, which ends with its process, whatever ends that: on one host a dead
process never stands in the way. And a lease, since flock does not reach every shared file system: the file
names its holder, who renews its time stamp; one that is not renewed for a while has expired.

A clock may jump, and hosts' clocks differ, so whoever wants a directory with another host's lease does not
compare times: it watches whether the lease is renewed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

from dora.errors import UserError

NAME = ".lock"
RENEW_S = 15.0
EXPIRES_S = 120.0  # for `held`, which only looks once; above the minute that NFS may show an old time stamp


class Lock:
    """Holds a run directory from `take` to `release`.

    `lost`: who took it over in between, which can happen to a process that was halted for longer than a lease.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.lost: str | None = None
        self._token = secrets.token_hex(8)
        self._file: Any = None
        self._end = threading.Event()

    def take(self) -> None:
        """Raises UserError with the holder's name where somebody else is at work there."""
        self._file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        try:
            self._claim()
        except BaseException:
            self._file.close()
            self._file = None
            raise
        threading.Thread(target=self._renew, daemon=True).start()

    def _claim(self) -> None:
        try:
            works = _flock(self._file)
        except BlockingIOError:
            raise self._in_use() from None
        holder = _read(self.path)
        # With flock in hand a holder on this host is dead. Any other may live: its lease tells.
        other = holder is not None and not (works and holder["host"] == socket.gethostname())
        if other and _renewed(self.path):
            raise self._in_use()
        self._file.truncate(0)
        self._file.seek(0)
        me = {"host": socket.gethostname(), "pid": os.getpid(), "token": self._token}
        self._file.write(json.dumps(me).encode())
        os.fsync(self._file.fileno())
        if other or not works:  # two hosts may have come to the same end at once: the later writer has it
            time.sleep(1)  # long enough for the other, which looked when we did, to have written
            if (now := _read(self.path)) and now["token"] != self._token:
                raise UserError(f"run directory {self.path.parent} was just taken by {_name(now)}")

    def _in_use(self) -> UserError:
        holder = _name(_read(self.path))
        return UserError(f"run directory {self.path.parent} is in use by {holder}; wait for it or stop it")

    def _renew(self) -> None:
        while not self._end.wait(RENEW_S):
            with contextlib.suppress(OSError):  # a server that is away for a moment
                holder = _read(self.path)
                if holder is not None and holder["token"] != self._token:
                    self.lost = _name(holder)
                    return
                os.utime(self.path)

    def release(self) -> None:
        """Lets go; does nothing where nothing is held."""
        self._end.set()
        if self._file is not None:
            if self.lost is None:
                with contextlib.suppress(OSError):  # a full or vanished disk: the lease runs out by itself
                    self._file.truncate(0)
            self._file.close()
            self._file = None


def held(folder: Path) -> str | None:
    """Who is at work in `folder`, such as `process 12 on host`; None where nobody is. Takes no lock."""
    path = folder / NAME
    holder = _read(path)
    if holder is None or not _fresh(path):
        return None
    if holder["host"] == socket.gethostname():
        try:
            os.kill(holder["pid"], 0)
        except ProcessLookupError:
            return None
        except PermissionError:  # another user's
            pass
    return _name(holder)


def _flock(file: Any) -> bool:
    """Takes the kernel's lock; False where this file system has none. Raises BlockingIOError where it is taken."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        return False
    return True


def _read(path: Path) -> dict[str, Any] | None:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return holder if {"host", "pid", "token"} <= holder.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _name(holder: dict[str, Any] | None) -> str:
    return "another process" if holder is None else f"process {holder['pid']} on {holder['host']}"


def _fresh(path: Path) -> bool:
    """Whether the lease was renewed lately, by the file server's clock where we may write there."""
    try:
        return abs(_server_time(path.parent) - path.stat().st_mtime) <= EXPIRES_S
    except FileNotFoundError:
        return False


def _server_time(folder: Path) -> float:
    probe = folder / f".now.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:  # we may only read there
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _renewed(path: Path) -> bool:
    """Watches a lease for as long as its holder would need to renew it three times."""

    def stamp() -> int | None:
        try:
            with path.open("rb") as f:  # opening asks the server, where a stat may show what was
                return os.fstat(f.fileno()).st_mtime_ns if f.read() else None
        except FileNotFoundError:
            return None

    before = stamp()
    end = time.monotonic() + 3 * RENEW_S
    while time.monotonic() < end:
        time.sleep(RENEW_S / 10)
        if (now := stamp()) is None:  # let go in the meantime
            return False
        if now != before:
            return True
    return False
