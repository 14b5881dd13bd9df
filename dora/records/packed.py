"""A study's records in one file, runs.jsonl.gz: to be shared, kept beside a paper, or committed.

The first line is {"format": …, "version": …}. Each line behind it is one run: its place under
results/runs, and the text of each of its files by name. Every reader of a results folder takes the
runs in this file for directories: they are unpacked into a temporary folder that lives as long as
the process.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from dora.checked_files import check_readable, open_own
from dora.errors import TEMPORARY, NotNow, UserError
from dora.files import write_atomic
from dora.plain import printable
from dora.process import machine
from dora.records import run_json
from dora.records.anonymous import anonymous
from dora.records.journals import METRICS, RANKS
from dora.records.place import RUNS, Place, place_of

NAME = "runs.jsonl.gz"
FILES = (run_json.NAME, RANKS, METRICS)
FORMAT = {"format": "dora-glue records", "version": 1}
_MOST_NAME = 255  # bytes of a folder's name on the usual file systems
_LONGEST = 64 << 20  # characters of a line: a damaged or hostile file must not fill the memory


def texts_of(folder: Path) -> dict[str, str]:
    """Returns a run's place and the texts of its files that are there."""
    texts = {"place": "/".join(place_of(folder))}
    for name in FILES:
        with contextlib.suppress(FileNotFoundError), open_own(folder, name) as file:
            # Undecodable bytes stay what they are: a record's readers say what is wrong with it.
            texts[name] = file.read().decode(errors="surrogateescape")
    return texts


def write(
    file: Path,
    folders: Iterable[Path],
    blind: bool = False,
    read: Callable[[Path], dict[str, str] | None] = texts_of,
) -> int:
    """Packs the records of these run directories into `file`; returns their number.

    `blind`: without hosts and the machine's folders (`dora.records.anonymous`). `read`: returns a
    run's texts, or None to leave it out. Weights, predictions and logs stay where they are. Equal
    records give equal bytes. Raises UserError with every run that would not be read back, and where
    none is left; an older file then stays.
    """
    held, number = io.BytesIO(), 0
    problems = []
    with gzip.GzipFile(filename="", mode="wb", fileobj=held, mtime=0) as packed:
        packed.write(_line(FORMAT))
        for folder in folders:
            if (texts := read(folder)) is None:
                continue
            try:
                _run(_line(texts).decode())
                if blind:
                    texts[run_json.NAME] = anonymous(texts[run_json.NAME])
            except ValueError as e:
                named = printable(shown(folder))
                problems.append(f"{named} cannot be packed: {e}; move it away, to pack the others")
            packed.write(_line(texts))
            number += 1
    if problems:
        raise UserError(*problems)
    if not number:
        raise UserError(f"{file} would hold no run: none is done or has diverged any more")
    write_atomic(file, held.getvalue())
    return number


def check_free(file: Path) -> None:
    """Raises UserError where `write` would replace another kind of file, or add one to a run's."""
    run = next((p for p in file.absolute().parents if (p / run_json.NAME).exists()), None)
    if run is not None:
        raise UserError(f"{file} lies in {run}, a run's directory: name a file elsewhere")
    # A link to nowhere is replaced; anything but a file, such as a pipe, is not opened.
    if file.exists() and not (file.is_file() and _is_packed(file)):
        raise UserError(
            f"{file} is there and holds no packed records: name another file, or remove this one"
        )


def _is_packed(file: Path) -> bool:
    """Tells whether a file begins as `write` begins one."""
    try:
        with gzip.open(file, "rt", encoding="ascii") as lines:
            return _object(lines.readline(_LONGEST)) == FORMAT
    except (OSError, EOFError, zlib.error, ValueError, RecursionError):
        return False


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True, sort_keys=True).encode() + b"\n"


def directories(results: Path) -> list[Path]:
    """Returns a directory for each run in `results`/runs.jsonl.gz; none where there is no such file.

    Raises UserError where the file is damaged or of another kind.
    """
    file = results / NAME
    try:
        changed = file.stat()
    except OSError:
        return []
    return list(_unpacked(file, file.absolute(), changed.st_mtime_ns, changed.st_size))


# One copy for all readers in a process; they are removed when it ends.
_folders: list[tempfile.TemporaryDirectory[str]] = []
# The packed file, as it was typed, by the folder that it was unpacked into.
_files: dict[Path, Path] = {}


def origin(path: Path) -> Path | None:
    """Returns the packed file that a directory or file was unpacked from; None for any other."""
    return next((_files[root] for root in path.parents if root in _files), None)


def results_of(folder: Path) -> Path | None:
    """Returns the results folder that holds a run, as it was typed; None if the run was moved.

    RESULTS/runs/DATA/TASK/MODEL/METHOD/BUDGET/KEY/sSEED: "runs" is six parents up. An unpacked
    run came with the folder that its packed file lies in.
    """
    if (file := origin(folder)) is not None:
        return file.parent
    # A directory may be named from within the results, as `s1`.
    for above in (folder.parents, folder.resolve().parents):
        if len(above) > 7 and above[6].name == RUNS:
            return above[7]
    return None


def shown(path: Path) -> str:
    """Returns a path as messages name it: `RESULTS/runs.jsonl.gz: PLACE` for an unpacked one.

    The unpacked files themselves are nobody's to look at: they are gone when the process ends.
    """
    for root in path.parents:
        if root in _files:
            return f"{_files[root]}: {path.relative_to(root)}"
    return str(path)


# The absolute path and the size are arguments only to be a part of the cache's key.
@functools.lru_cache(maxsize=64)
def _unpacked(file: Path, absolute: Path, changed: int, size: int) -> tuple[Path, ...]:
    """Unpacks a file; `changed`: its time of change in nanoseconds.

    The unpacked files have its time, so that whoever looks at times sees no change. Raises NotNow
    where the temporary folder is full, UserError where it cannot be used.
    """
    check_readable(file)
    with _unpacking(file):
        # A process that a signal ends leaves its folder, which the next one removes.
        machine.sweep(Path(tempfile.gettempdir()), "dora-records-*.tmp")
        suffix = f".{machine.mark()}.tmp"
        _folders.append(tempfile.TemporaryDirectory(suffix, "dora-records-"))
    root = Path(_folders[-1].name) / RUNS
    _files[root] = file
    found = []
    try:
        with gzip.open(file, "rt", encoding="ascii", newline="\n") as lines:
            for texts in _runs(lines):
                folder = root / texts.pop("place")
                if folder.exists():
                    raise ValueError(f"it holds {folder.relative_to(root)} twice")
                with _unpacking(file):
                    folder.mkdir(parents=True)
                    for name, text in texts.items():
                        (folder / name).write_bytes(text.encode(errors="surrogateescape"))
                        os.utime(folder / name, ns=(changed, changed))
                found.append(folder)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as e:
        raise UserError(f"{file} cannot be read: {e}; copy it again from where it came") from e
    return tuple(found)


@contextlib.contextmanager
def _unpacking(file: Path) -> Iterator[None]:
    """Turns an OSError of the temporary folder into UserError, or NotNow if it will pass.

    The packed file is not damaged.
    """
    try:
        yield
    except OSError as e:
        text = f"{file} cannot be unpacked into the temporary folder: {e.strerror or e};"
        if e.errno in TEMPORARY:
            raise NotNow(f"{text} make room there, or name another folder in TMPDIR") from e
        raise UserError(f"{text} name another folder in TMPDIR") from e


def _runs(lines: Any) -> Iterator[dict[str, str]]:
    """Yields each run's texts. Raises ValueError for a line that is none of `write`."""
    if _object(lines.readline(_LONGEST)) != FORMAT:
        raise ValueError("it is no file of python -m dora.collect, or one of a later version")
    # One character more than allowed tells a line that is too long from one that just fits.
    while line := lines.readline(_LONGEST + 1):
        yield _run(line)


def _run(line: str) -> dict[str, str]:
    """Returns the texts of a run's line. Raises ValueError for one that is not to be unpacked.

    The writer asks here too, so that it writes nothing that its reader refuses.
    """
    if len(line) > _LONGEST:
        raise ValueError(f"its records have more than {_LONGEST:,} characters")
    texts = _object(line)
    parts = str(texts.get("place")).split("/")
    sound = len(parts) == len(Place._fields) and all(map(_names_a_folder, parts))
    if not sound or not re.fullmatch("s[0-9]+", parts[-1]):
        raise ValueError(f"{texts.get('place')!r:.80} is no place of a run")
    if odd := texts.keys() - {"place", *FILES}:
        raise ValueError(f"{sorted(odd)[0]!r:.40} is no file of a run's records")
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"a file of {texts['place']} is no text")
    if run_json.NAME not in texts:
        raise ValueError(f"{texts['place']} has no {run_json.NAME}")
    return texts


def _names_a_folder(part: str) -> bool:
    """Tells whether a part of a place names a folder inside the one before it, and can be shown.

    A run's names are of letters of any script, digits, spaces and . _ + -
    (`dora.configuration.check`); a key's folder may have been renamed by hand.
    """
    # `.` and `..` lead elsewhere, other names with a dot in front are hidden. Half of a surrogate
    # pair, which UTF-8 cannot encode, does not print.
    printed = part.isprintable() and not part.startswith(".")
    return printed and 0 < len(part.encode()) <= _MOST_NAME


def _object(line: str) -> dict[str, Any]:
    value = json.loads(line) if line else None
    if not isinstance(value, dict):
        raise ValueError("a line is no JSON object")
    return value
