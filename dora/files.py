"""Files that are whole or absent: writes go to a temporary name, are synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open

from dora.errors import UserError
from dora.process import machine

_LFS = b"version https://git-lfs"  # how a pointer begins
# What file systems say that cannot sync a file or, more often, a folder: nothing is lost but by a power cut.
_NO_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS}
_NO_FOLDER_SYNC = _NO_SYNC | {errno.EISDIR, errno.EACCES, errno.EPERM}


def write_atomic(path: Path, *content: bytes | memoryview | str) -> None:
    """Writes `path`, of one or more parts, so that a reader, or a machine that dies, sees the old file or the new one.

    An OSError names `path`, which somebody asked for, not the temporary file. Those that killed processes left of it
    are removed.
    """
    machine.sweep(path.parent, f".{glob.escape(path.name)}.*.tmp")
    temporary = path.with_name(f".{path.name}.{machine.mark()}.tmp")
    try:
        with temporary.open("wb") as f:
            for part in content:
                f.write(part.encode() if isinstance(part, str) else part)
            f.flush()
            sync(f)
        temporary.replace(path)
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(path)) from e
    finally:
        with contextlib.suppress(OSError):  # what kept us from writing may keep us from this too
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Gives an OSError of a file already open, such as that of a full disk, the file's name."""
    try:
        yield
    except OSError as e:
        e.filename = e.filename or str(path)
        raise


def sync(file: IO[bytes]) -> None:
    """Brings what was written to the disk, where the file system can do that."""
    try:
        os.fsync(file.fileno())
    except OSError as e:
        if e.errno not in _NO_SYNC:
            raise


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` last through a power cut, where the file system can do that."""
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
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which appears at `path` whole or not at all. Nobody's files are ever replaced.

    Raises UserError where `path` is taken, at the start or in the end. Those that killed processes left half-filled
    are removed.
    """
    path = path.expanduser().resolve()
    if problems := taken(path):
        raise UserError(*problems)
    path.parent.mkdir(parents=True, exist_ok=True)
    machine.sweep(path.parent, f".{glob.escape(path.name)}.*.part")
    part = path.with_name(f".{path.name}.{machine.mark()}.part")
    machine.discard(part)  # of a process that was killed and had our number
    part.mkdir()
    try:
        yield part
        for file in part.iterdir():
            with file.open("rb") as f:
                sync(f)
        if problems := taken(path):
            raise UserError(*problems)
        part.replace(path)  # over an empty folder too
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync_folder(path.parent)


def taken(path: Path) -> list[str]:
    """What is wrong with writing something new to `path`; nothing where it is absent or an empty folder."""
    path = path.expanduser()
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return []
    return [
        f"{path} is there already, and nothing is overwritten: remove it, or name another place with --to"
    ]


def open_own(folder: Path, name: str, at_most: int | None = None) -> IO[bytes]:
    """Opens `folder`/`name`, a file that a run left in its directory, for reading; never waits.

    Raises FileNotFoundError where it is not there, and OSError saying why where it is a link or lies behind one (a
    directory from somebody else may point at any file of ours), is no regular file (a pipe would be waited for), or
    has more than `at_most` bytes.
    """
    path = folder / name
    for part in path.parents[: len(name.split("/")) - 1]:
        if part.is_symlink():
            raise OSError(errno.ELOOP, f"{part.name} is a link, and no run leaves one", str(path))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise OSError(
                errno.ELOOP, f"{path.name} is a link, and no run leaves one", str(path)
            ) from e
        raise
    about = os.fstat(fd)
    problem = None
    if not stat.S_ISREG(about.st_mode):
        problem = OSError(errno.EINVAL, "it is no regular file", str(path))
    elif at_most is not None and about.st_size > at_most:
        text = f"it has {about.st_size:,} bytes, and at most {at_most:,} are read"
        problem = OSError(errno.EFBIG, text, str(path))
    if problem is not None:
        os.close(fd)
        raise problem
    return os.fdopen(fd, "rb")


def strange(folder: Path) -> list[str]:
    """What `folder` holds that is neither a file nor a folder, by its path inside: links, pipes, devices.

    A run that goes on in a directory from somebody else would write through a link, and wait for a pipe.
    """
    found = []
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            with contextlib.suppress(
                FileNotFoundError
            ):  # a temporary one of another process at work there
                mode = path.lstat().st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    found.append(str(path.relative_to(folder)))
    return sorted(found)


def to_json(value: Any) -> str:
    """Readable JSON with a final newline; NaN and infinity are refused, since they are not JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def check_readable(file: Path) -> None:
    """Reads the file's first bytes. Raises UserError where that fails, or where Git LFS has left a pointer."""
    try:
        with file.open("rb") as f:
            start = f.read(len(_LFS))
    except OSError as e:
        raise UserError(f"{file} cannot be read: {e.strerror}") from e
    if start == _LFS:
        raise UserError(
            f"{file} cannot be read: it is a Git LFS pointer, a few lines that stand for the file itself; "
            "run git lfs pull where it was cloned, or download it again"
        )


def read_object(file: Path) -> dict[str, Any]:
    """Reads a file that holds one JSON object. Raises UserError where it cannot be read or holds anything else."""
    check_readable(file)
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{file} cannot be read: {e}; it is cut short or no JSON file") from e
    if not isinstance(value, dict):
        raise UserError(f"{file} holds a {type(value).__name__}; it must be a JSON object, {{…}}")
    return value


def check_safetensors(file: Path) -> None:
    """Reads the file's header. Raises UserError where it is no safetensors file, or cut short."""
    check_readable(file)
    try:
        with safe_open(file, "np"):
            pass
    except (OSError, SafetensorError) as e:
        raise UserError(
            f"{file} cannot be read: {e}; it is cut short or no safetensors file"
        ) from e


def sha256_file(path: Path) -> str:
    """The file's sha256 in hex; read once in a process, and again where its size or time stamp has changed."""
    about = path.stat()
    return _sha256(path, about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as f:
        return sha256_of(f)


def sha256_of(file: IO[bytes]) -> str:
    """The sha256 in hex of the rest of an open file, read in pieces."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
