"""One process on a run directory at a time, also where several hosts share the folder.

Two means work together. The kernel's flock ends with its process, whatever ends the process: on one
host a dead process never stands in the way. Flock does not reach every shared file system, so there
is a lease too: the lock file names its holder, who renews its time stamp; a lease that is not
renewed for a while has expired.

A clock may jump, and hosts' clocks differ, so a process that wants a directory with another host's
lease does not compare times: it watches whether the lease is renewed. A host is identified by its
name and the start of its kernel: two machines may have one name, and on a folder that they share,
the flock of one may be unknown to the other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dora.checked_files import open_own
from dora.errors import NotNow, Stopped
from dora.files import sync
from dora.plain import is_whole
from dora.process import machine
from dora.process.signals import outside

NAME = ".lock"
LARGEST = 4096  # bytes of a lock file that are read
RENEW_S = 15.0
SOON_S = 1.0  # after which a new holder first checks that it still is the holder
# The errors by which file systems say that they have no flock.
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}
# For `held`, which looks only once. NFS may show a time stamp that is a minute old.
EXPIRES_S = 120.0


class Lock:
    """Holds a run directory from `take` to `release`.

    `lost`: the name of the process that took it over in between, else None. A process that was
    halted for longer than a lease can lose its directory.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.lost: str | None = None
        self._token = secrets.token_hex(8)
        self._file: Any = None
        self._end = threading.Event()

    def take(self) -> None:
        """Takes the directory. Raises NotNow with the holder's name if another process has it."""
        # Not through a link, and without waiting at a pipe: a foreign directory may hold either.
        how = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self.path, how, 0o666), "r+b", buffering=0)
        try:
            self._claim()
        except BaseException:
            self._file.close()
            self._file = None
            raise
        threading.Thread(target=self._renew, daemon=True).start()

    def _claim(self) -> None:
        # flock first: among processes of one host it decides at once, without waiting for a lease.
        try:
            has_flock = _flock(self._file)
        except BlockingIOError:
            raise self._in_use() from None
        holder = _read(self.path)
        # With flock in hand, a holder under this kernel is dead. Another host's may live, and only
        # its lease tells.
        other = holder is not None and not (has_flock and _here(holder))
        if other and _renewed(self.path, holder):
            raise self._in_use()
        self._file.truncate(0)
        self._file.seek(0)
        where = {
            "host": socket.gethostname(),
            "boot": machine.boot(),
            "numbering": machine.numbering(),
        }
        text = json.dumps({**where, "pid": os.getpid(), "token": self._token})
        try:
            self._file.write(text.encode())
            sync(self._file)
        except OSError:  # on a full disk: whoever does not hold the directory must not be named
            with contextlib.suppress(OSError):
                self._file.truncate(0)
            raise
        # Two hosts may have found the same lease expired at once: the later writer has the
        # directory.
        if other or not has_flock:
            time.sleep(1)  # long enough for the other, which looked when we did, to have written
            if (now := _read(self.path)) and now["token"] != self._token:
                raise self._in_use()

    def _in_use(self) -> NotNow:
        holder = _name(_read(self.path))
        return NotNow(
            f"run directory {self.path.parent} is in use by {holder}; try again when that has "
            "ended, or stop it"
        )

    def _renew(self) -> None:
        # The first look comes early: where flock does not reach, two may have begun at once.
        wait = min(SOON_S, RENEW_S)
        while not self._end.wait(wait):
            wait = RENEW_S
            with contextlib.suppress(OSError):  # the file server is away for a moment
                self.look()
                if self.lost is not None:
                    return  # to renew the lease would be to renew the other's
                os.utime(self.path)

    @property
    def gone(self) -> bool:
        """Tells whether the lock file, and with it the directory, was removed or moved away."""
        return self._file is not None and not os.path.lexists(self.path)

    def look(self) -> None:
        """Notes in `lost` if another process holds the directory; `_renew` does so regularly."""
        holder = _read(self.path) if self._file is not None else None
        if holder is not None and holder["token"] != self._token:
            self.lost = _name(holder)

    def release(self) -> None:
        """Releases the directory; does nothing if it is not held."""
        self._end.set()
        if self._file is not None:
            # Emptied, not removed: another process may have opened the file already, and would then
            # hold a lock on a file that nobody else can find.
            if self.lost is None:
                with contextlib.suppress(OSError):  # on a full or vanished disk the lease runs out
                    self._file.truncate(0)
            self._file.close()
            self._file = None


def held(folder: Path) -> str | None:
    """Returns who is at work in `folder`, such as `process 12 on host`, or None if nobody is.

    Takes no lock.
    """
    path = folder / NAME
    holder = _read(path)
    if holder is None or not _fresh(path):
        return None
    # In another container of this host the same number is another process.
    same = _here(holder) and holder.get("numbering") == machine.numbering()
    return None if same and not machine.lives(holder["pid"]) else _name(holder)


def _flock(file: Any) -> bool:
    """Takes the kernel's lock; returns False if this file system has none.

    Raises BlockingIOError where another process has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno not in _NO_FLOCK:
            raise
        return False
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """Returns the holder that a lock file names, or None for a file that is empty or no lock's.

    The file may be somebody else's, so every value is checked that is printed or used.
    """
    try:
        with open_own(path.parent, path.name, LARGEST) as f:
            holder = json.loads(f.read())
        host, pid, token = (holder[key] for key in ("host", "pid", "token"))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    named = all(isinstance(text, str) and text.isprintable() for text in (host, token))
    # A signal to process -1 or 0 would reach many processes; larger numbers overflow in C.
    return holder if named and is_whole(pid, 1, 2**31 - 1) else None


def _here(holder: dict[str, Any]) -> bool:
    """Tells whether the holder runs, or ran, under this very kernel."""
    return holder["host"] == socket.gethostname() and holder.get("boot") == machine.boot()


def _name(holder: dict[str, Any] | None) -> str:
    return "another process" if holder is None else f"process {holder['pid']} on {holder['host']}"


def _fresh(path: Path) -> bool:
    """Tells whether the lease was renewed lately, by the file server's clock if it can be asked."""
    try:
        return abs(_server_time(path.parent) - path.stat().st_mtime) <= EXPIRES_S
    except FileNotFoundError:
        return False


def _server_time(folder: Path) -> float:
    # A new file gets the time of the server's clock. Its name is this thread's alone.
    probe = folder / f".{threading.get_ident()}.{machine.mark()}.now"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:  # a folder that may only be read
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _renewed(path: Path, holder: dict[str, Any] | None) -> bool:
    """Tells whether a lease is renewed while it is watched, for three of its holder's periods.

    Says on stderr that it waits. Raises Stopped if a signal ends the wait.
    """

    def stamp() -> int | None:
        try:
            # Opening a file asks the server; a plain stat may show a cached time stamp.
            with path.open("rb") as f:
                return os.fstat(f.fileno()).st_mtime_ns if f.read() else None
        except FileNotFoundError:
            return None

    before = stamp()
    end = time.monotonic() + 3 * RENEW_S
    said = False
    while time.monotonic() < end:
        time.sleep(RENEW_S / 10)
        if outside.stopping:
            raise Stopped("while it waited for another host's lease; the same command takes it up")
        if (now := stamp()) is None:  # released in the meantime
            return False
        if now != before:
            return True
        if not said:
            said = True
            print(
                f"waits up to {3 * RENEW_S:.0f} s to see whether {_name(holder)} is still at work "
                f"in {path.parent}",
                file=sys.stderr,
                flush=True,
            )
    return False
