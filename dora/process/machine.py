"""Names this machine and its processes, so that whoever finds a lock or a half-made file knows whether its maker lives.

Host names do not do: two containers, or two copies of a virtual machine, may have the same one.
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

STRANGE_S = (
    86_400.0  # how old a half-made file of another machine is before it counts as left behind
)
UNFINISHED = re.compile(
    r"\.[0-9]{1,10}(-[0-9a-f]{8})?\.tmp$"
)  # without a mark: of an older version
_MARKED = re.compile(r"\.([0-9]{1,10})-([0-9a-f]{8})\.(tmp|part|now)$")


@functools.cache
def boot() -> str | None:
    """This kernel's own id, another one after every start of the machine; None where there is none (Linux alone has it).

    Containers on one machine share it, and with it the kernel's locks.
    """
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return None


@functools.cache
def numbering() -> str | None:
    """Names the space in which process ids count, which each container has for itself; None where nothing does."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return None


def lives(pid: int) -> bool:
    """Whether there is a process `pid` here, whoever's it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def mark() -> str:
    """This process and its machine, `1234-0a1b2c3d`: a part of the name of whatever it has not finished yet."""
    return f"{os.getpid()}-{_machine()}"


def _machine() -> str:
    about = f"{socket.gethostname()} {boot()} {numbering()}"
    return hashlib.sha256(about.encode()).hexdigest()[:8]


def sweep(folder: Path, pattern: str, ours: bool = False) -> None:
    """Removes the half-made files and folders of `pattern` in `folder` whose maker is gone; what fails is left.

    One from elsewhere is left alone for a day: it may be filled just now. So is one without a mark, as older versions
    left them, and where the folder is not `ours` alone it is never touched.
    """
    with contextlib.suppress(OSError):
        for path in list(folder.glob(pattern)):
            if _left_behind(path, ours):
                discard(path)


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder; does nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Removes what nobody needs any more; it stays where that fails."""
    with contextlib.suppress(OSError):
        remove(path)


def _left_behind(path: Path, ours: bool) -> bool:
    made_by = _MARKED.search(path.name)
    if made_by is not None and made_by[2] == _machine():
        return not lives(int(made_by[1]))
    with contextlib.suppress(OSError):
        return (ours or made_by is not None) and time.time() - path.lstat().st_mtime > STRANGE_S
    return False
