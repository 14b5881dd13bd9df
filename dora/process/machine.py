"""Names for this machine and its processes, so that a leftover file tells whether its maker lives.

Locks and half-made files carry such a name. Host names alone are not enough: two containers, or
two copies of a virtual machine, may have the same one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import socket
import time
from pathlib import Path

# Age in seconds from which a half-made file of another machine counts as left behind. Its process
# cannot be asked from here, and no single file takes a day to write.
FOREIGN_AGE_S = 86_400.0
# The end of a half-made file's or folder's name: the process id and machine of `mark`, and a suffix.
MARKED = re.compile(r"\.([0-9]{1,10})-([0-9a-f]{8})\.(tmp|part|now)$")


@functools.cache
def boot() -> str | None:
    """Returns the kernel's boot id, which changes at every start of the machine.

    Containers on one machine share the id, and with it the kernel's locks. Returns None where the
    system has no such id; only Linux has one.
    """
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return None


@functools.cache
def numbering() -> str | None:
    """Returns the name of the PID namespace, or None where the system has none.

    Each container counts its process ids in a namespace of its own, so an id from one container
    means nothing in another.
    """
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return None


def lives(pid: int) -> bool:
    """Returns True where a process with the id `pid` exists on this machine, whoever owns it."""
    try:
        os.kill(pid, 0)  # signal 0 is never delivered; only the look-up is done
    except ProcessLookupError:
        return False
    except PermissionError:  # the process exists and belongs to another user
        return True
    return True


def mark() -> str:
    """Returns the name of this process and its machine, such as `1234-0a1b2c3d`.

    Every file or folder that is not finished yet carries it in its name.
    """
    return f"{os.getpid()}-{_machine()}"


def _machine() -> str:
    about = f"{socket.gethostname()} {boot()} {numbering()}"
    return hashlib.sha256(about.encode()).hexdigest()[:8]


def sweep(folder: Path, pattern: str) -> None:
    """Removes half-made files and folders that match `pattern` in `folder` and whose maker is gone.

    A leftover of another machine is removed only when it is a day old, since it may be in use. A
    file without a mark may be another program's and is never touched. A removal that fails is
    passed over.
    """
    with contextlib.suppress(OSError):
        # A list, because the folder must not change while `glob` still reads it.
        for path in list(folder.glob(pattern)):
            if _left_behind(path):
                discard(path)


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder; does nothing where `path` does not exist."""
    # `is_dir` follows links: without the second test a link would empty the folder it points to.
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Removes `path` as `remove` does, and leaves it in place where that fails."""
    with contextlib.suppress(OSError):
        remove(path)


def _left_behind(path: Path) -> bool:
    """Returns True where `path` has a mark and no living process can still be filling it."""
    made_by = MARKED.search(path.name)
    if made_by is None:
        return False
    if made_by[2] == _machine():
        return not lives(int(made_by[1]))
    with contextlib.suppress(OSError):
        return time.time() - path.lstat().st_mtime > FOREIGN_AGE_S
    return False
