"""Files that can be relied on: written whole or not at all, and checked before they are believed.

Writes go to a temporary name, are synced, then renamed. A file from elsewhere may be cut short, a
link, a pipe, or a Git LFS pointer; the readers here refuse it with the reason.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from safetensors import SafetensorError, safe_open

from dora.errors import UserError
from dora.process import machine

Shape = tuple[int, ...]
LFS_POINTER = b"version https://git-lfs"  # the first bytes of a Git LFS pointer
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


def open_own(folder: Path, name: str, at_most: int | None = None) -> IO[bytes]:
    """Opens `folder`/`name`, a file that a run left in its directory, for reading; never waits.

    The directory may come from somebody else. Raises FileNotFoundError where there is no such file,
    and OSError with the reason where it is a link or lies behind one (the link may point at any
    file of ours), is no regular file (reading a pipe would wait for a writer), or has more than
    `at_most` bytes.
    """
    path = folder / name
    # Only the parents below `folder`: the user may well reach the run's directory through a link.
    for part in path.parents[: len(name.split("/")) - 1]:
        if part.is_symlink():
            raise OSError(errno.ELOOP, f"{part.name} is a link, and no run leaves one", str(path))
    try:
        # O_NOFOLLOW fails with ELOOP on a link; O_NONBLOCK keeps `open` from waiting on a pipe.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise OSError(
                errno.ELOOP, f"{path.name} is a link, and no run leaves one", str(path)
            ) from e
        raise
    # Checked on the open file, not on the path, which somebody could exchange in between.
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
    """Lists the links, pipes and devices in `folder` by their path inside it, sorted.

    A run that goes on in a directory from somebody else would write through a link and wait for a
    pipe.
    """
    found = []
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            # Another process at work there may have removed a temporary file meanwhile.
            with contextlib.suppress(FileNotFoundError):
                mode = path.lstat().st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    found.append(str(path.relative_to(folder)))
    return sorted(found)


def to_json(value: Any) -> str:
    """Returns `value` as indented JSON with a final newline.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_STRICT = json.JSONDecoder(parse_constant=_refuse)


def from_json(text: str) -> Any:
    """Returns the value of a JSON text.

    Raises ValueError for NaN and Infinity too, which Python's own reader takes, and RecursionError
    for brackets nested some thousand times, as only a damaged or hostile text has.
    """
    return _STRICT.decode(text)


def check_readable(file: Path) -> None:
    """Reads the first bytes of `file`.

    Raises UserError where that fails, or where the file is a Git LFS pointer.
    """
    try:
        with file.open("rb") as f:
            start = f.read(len(LFS_POINTER))
    except OSError as e:
        raise UserError(f"{file} cannot be read: {e.strerror}") from e
    if start == LFS_POINTER:
        raise UserError(
            f"{file} cannot be read: it is a Git LFS pointer, a few lines that stand for the file "
            "itself; run git lfs pull where it was cloned, or download it again"
        )


def read_object(file: Path) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Raises UserError where it cannot be read or holds anything else.
    """
    check_readable(file)
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{file} cannot be read: {e}; it is cut short or no JSON file") from e
    if not isinstance(value, dict):
        raise UserError(f"{file} holds a {type(value).__name__}; it must be a JSON object, {{…}}")
    return value


def check_safetensors(file: Path) -> None:
    """Reads the header of `file`.

    Raises UserError where it is no safetensors file, or cut short.
    """
    check_readable(file)
    try:
        # Opening compares the file's size with the tensors that its header lists.
        with safe_open(file, "np"):
            pass
    except (OSError, SafetensorError) as e:
        raise UserError(
            f"{file} cannot be read: {e}; it is cut short or no safetensors file"
        ) from e


def tensor_shapes(file: Path) -> dict[str, Shape]:
    """Returns the shape of every tensor in a safetensors file, by name; reads the header alone."""
    with safe_open(file, "np") as f:
        # `f` is no mapping: it has keys(), and cannot be iterated.
        return {name: tuple(f.get_slice(name).get_shape()) for name in f.keys()}  # noqa: SIM118


def sha256_file(path: Path) -> str:
    """Returns the file's sha256 in hex.

    A process reads each file once, and again only if its size or modification time has changed.
    """
    about = path.stat()
    return _sha256(path, about.st_size, about.st_mtime_ns)


# A backbone has gigabytes, and each run of a sweep asks for its hash. Size and time are arguments
# only to be a part of the cache's key.
@functools.lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as f:
        return sha256_of(f)


def sha256_of(file: IO[bytes]) -> str:
    """Returns the sha256 in hex of the rest of an open file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
