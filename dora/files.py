"""Files written whole or not at all: under a temporary name, synced, then renamed.

The readers are in `checked_files`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from dora.errors import UserError
from dora.process import machine

# Errors of file systems that cannot sync a file or, more often, a folder. They are passed over:
# only a power cut could then lose data.
_NO_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS}
_NO_FOLDER_SYNC = _NO_SYNC | {errno.EISDIR, errno.EACCES, errno.EPERM}


def write_atomic(path: Path, *content: bytes | memoryview | str, over: bool = True) -> None:
    """Writes the parts of `content` to `path`, so that the file is the old one or the new one.

    This holds for a reader at any moment, and after a crash of the machine. `over`: False to replace
    no file: raises UserError where `path` is taken by then. Removes temporary files of `path` that
    killed processes left. Raises OSError with the name `path`, since the user knows nothing of the
    temporary file.
    """
    machine.sweep(path.parent, f".{glob.escape(path.name)}.*.tmp")
    temporary = path.with_name(f".{path.name}.{machine.mark()}.tmp")
    try:
        with temporary.open("wb") as f:
            for part in content:
                f.write(part.encode() if isinstance(part, str) else part)
            f.flush()
            # Before the rename: otherwise a power cut may leave the new name with no content.
            sync(f)
        if over:
            temporary.replace(path)
        else:
            _add(temporary, path)
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(path)) from e
    finally:
        # The cause of a failed write may make this fail too; the first error is the one to show.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _add(temporary: Path, path: Path) -> None:
    """Gives a file the name `path`. Raises UserError where that is taken."""
    # Only a link takes a name in one act with the look whether it is free.
    with contextlib.suppress(OSError):  # no free name, or a file system without hard links
        os.link(temporary, path)
        return
    if problems := taken(path):
        raise UserError(*problems)
    temporary.replace(path)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Adds the name `path` to an OSError that has none.

    Python knows no name when the file is open already, as when the disk gets full during a write.
    """
    try:
        yield
    except OSError as e:
        e.filename = e.filename or str(path)
        raise


@contextlib.contextmanager
def plainly(path: Path) -> Iterator[None]:
    """Turns safetensors' own error of a failed write at `path` into the OSError that it stands for.

    safetensors writes files by itself, as when Transformers saves a model, and tells of a full disk
    in words alone.
    """
    try:
        yield
    except SafetensorError as e:
        number = re.search(r"\(os error ([0-9]+)\)", str(e))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from e


def sync(file: IO[bytes]) -> None:
    """Forces the written bytes of `file` to the disk, where the file system can do that."""
    try:
        os.fsync(file.fileno())
    except OSError as e:
        if e.errno not in _NO_SYNC:
            raise


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut, where the file system can do that."""
    try:
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as e:
        if e.errno not in _NO_FOLDER_SYNC:
            raise


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, after waiting for it, if the file system has locks.

    Some shared file systems have none: whoever asks here must do no harm there either.
    """
    with contextlib.ExitStack() as held:
        # The system frees the lock when its descriptor closes, also after a kill.
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a folder to fill, which appears at `path` whole or not at all.

    Never replaces existing files: raises UserError where `path` is taken, at the start or at the
    end. Removes half-filled folders that killed processes left.
    """
    path = path.expanduser().resolve()
    if problems := taken(path):
        raise UserError(*problems)
    path.parent.mkdir(parents=True, exist_ok=True)
    machine.sweep(path.parent, f".{glob.escape(path.name)}.*.part")
    part = path.with_name(f".{path.name}.{machine.mark()}.part")
    machine.discard(part)  # left by a killed process that had the process id of this one
    try:
        part.mkdir()
    except OSError as e:  # the user knows nothing of the temporary name
        raise OSError(e.errno, e.strerror, str(path)) from e
    try:
        yield part
        for file in part.iterdir():
            with file.open("rb") as f:
                sync(f)
        # Again, since filling may take minutes and another command may have been faster.
        if problems := taken(path):
            raise UserError(*problems)
        part.replace(path)  # works over an empty folder too
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync_folder(path.parent)


def taken(path: Path) -> list[str]:
    """Lists the problems with a new file or folder at `path`.

    The list is empty where `path` does not exist or is an empty folder.
    """
    path = path.expanduser()
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return []
    return [
        f"{path} is there already, and nothing is overwritten: "
        "remove it, or name another place with --to"
    ]


def to_json(value: Any) -> str:
    """Returns `value` as indented JSON with a final newline.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
