"""Files checked before they are believed, and their sha256.

A file from elsewhere may be cut short, a link, a pipe, or a Git LFS pointer; the readers here
refuse it with the reason.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import IO, Any, NoReturn

from safetensors import SafetensorError, safe_open

from dora.errors import UserError

Shape = tuple[int, ...]
LFS_POINTER = b"version https://git-lfs"  # the first bytes of a Git LFS pointer


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
