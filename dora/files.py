"""Files that are whole or absent: writes go to a temporary name, are synced, then renamed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dora.errors import UserError


def write_atomic(path: Path, content: bytes | memoryview | str) -> None:
    """Writes `path` so that a reader, or a machine that dies, sees the old file or the new one."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with named(path), temporary.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    finally:
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


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` last through a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def to_json(value: Any) -> str:
    """Readable JSON with a final newline; NaN and infinity are refused, since they are not JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def check_safetensors(file: Path) -> None:
    """Reads the file's header. Raises UserError where it is no safetensors file, or cut short."""
    try:
        with safe_open(file, "np"):
            pass
    except (OSError, SafetensorError) as e:
        raise UserError(f"{file} cannot be read: {e}; it is cut short or no safetensors file") from e


def sha256_file(path: Path) -> str:
    """The file's sha256 in hex; read once in a process, and again where its size or time stamp has changed."""
    about = path.stat()
    return _sha256(path, about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
