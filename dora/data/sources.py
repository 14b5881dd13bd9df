"""GLUE as published: an official download (zips or TSVs), or a folder in the hub's layout.

Strict by choice. A row with a field too few or too many, an unknown label, a missing column or an empty
file is an error that names file and line; nothing is skipped, so a count of rows can be trusted. The
official QQP holds a few such rows (questions with a line break inside), which the hub's copy leaves out:
the message says how to leave them out too. An empty text is not an error. Labels in a test file are
ignored (the hub's MRPC has them): GLUE publishes none.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dora.data.tasks import Rows, Task
from dora.errors import UserError

GLUE_REPO = "nyu-mll/glue"
GLUE_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"

# Header names of the official TSVs, texts then label, where they are not the hub's (`Task.text`, "label").
_COLUMNS = {
    "mrpc": ("#1 String", "#2 String", "Quality"),
    "qqp": ("question1", "question2", "is_duplicate"),
    "stsb": ("sentence1", "sentence2", "score"),
    "mnli": ("sentence1", "sentence2", "gold_label"),
    "ax": ("sentence1", "sentence2"),
}
_COLA_COLUMNS = ["source", "label", "star", "sentence"]  # train and dev have no header, test has one
_ZIPS = {"qnli": ("QNLI.zip", "QNLIv2.zip"), "qqp": ("QQP.zip", "QQP-clean.zip")}
_AX_FILES, _AX_FOLDERS = ("AX.tsv", "diagnostic.tsv"), ("", "AX", "diagnostic")
_SHOWN = 3  # broken rows quoted from one file

Location = Path | zipfile.Path


def read_dir(task: Task, folder: Path) -> dict[str, Rows]:
    """Our split names → rows, from an official GLUE download.

    `folder` holds `FOLDER/` with the TSVs, or `FOLDER.zip` as downloaded; where it holds both, the
    unpacked files are read. Train and development splits must be there; a missing test split, or AX, is
    left out. `idx` is the file's own `index` column, else the row's number from 0.

    Raises `UserError` with every missing file and the first broken rows of each file.
    """
    with ExitStack() as stack:
        places = list(_places(task, folder, stack))
        held = (p for p in places if any(_tsv(task, split, p).is_file() for split in task.splits))
        if (place := next(held, None)) is None:
            if task.name == "ax":
                return {}
            looked = ", ".join(str(p) for p in places) if folder.is_dir() else "it is not a folder"
            raise UserError(
                f"data.dir={folder} holds no {task.folder} data (looked in: {looked}); it must be the folder "
                f"of an official GLUE download, with {task.folder}/ or {task.folder}.zip in it. "
                "Without one, use data=hub or data=mini"
            )

        return _every_split(task, lambda split: _read_tsv(task, split, _tsv(task, split, place)))


def _every_split(task: Task, read: Callable[[str], Rows]) -> dict[str, Rows]:
    """What `read` finds; an unlabelled split may be absent. Raises one `UserError` with all splits' problems."""
    problems: list[str] = []
    splits: dict[str, Rows] = {}
    for split in task.splits:
        try:
            splits[split] = read(split)
        except FileNotFoundError as absent:
            if _labelled(split):
                problems.append(
                    f"{task.name} needs its {split} split, and there is no {absent}; fetch it again"
                )
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return splits


def _places(task: Task, folder: Path, stack: ExitStack) -> Iterator[Location]:
    """Where the task's TSVs may lie, the preferred place first; opened zips are left to `stack`."""
    for name in _AX_FOLDERS if task.name == "ax" else (task.folder,):
        yield folder / name
    for name in _ZIPS.get(task.name, (f"{task.folder}.zip",)):
        if not (folder / name).is_file():
            continue
        try:
            archive = stack.enter_context(zipfile.ZipFile(folder / name))
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(
                f"{folder / name} is not a zip archive ({error}); a failed download leaves a web page or a "
                "Git LFS pointer under that name: fetch it again"
            ) from error
        yield zipfile.Path(archive) / task.folder


def _tsv(task: Task, split: str, place: Location) -> Location:
    """The file of a split at `place`: the first of its names that exists there, else the first name."""
    names = _AX_FILES if task.name == "ax" else (task.splits[split].replace("validation", "dev") + ".tsv",)
    paths = [place / name for name in names]
    return next((p for p in paths if p.is_file()), paths[0])


def _labelled(split: str) -> bool:
    return split.startswith(("train", "dev"))


def _read_tsv(task: Task, split: str, path: Location) -> Rows:
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        # Binary, because a text file also ends lines at a lone \r, and splitlines() at \x85 and \u2028.
        with path.open("rb") as file:
            first_line = next(file, b"").removeprefix(b"\xef\xbb\xbf")  # MRPC: a byte order mark
            if first_line.startswith((b"<", b"version https://git-lfs")):
                raise UserError(f"{path} is a web page or a Git LFS pointer, not a table; fetch it again")
            if task.name == "cola" and _labelled(split):
                lines = chain([first_line] if first_line else [], file)
                return _parse(task, split, path, _COLA_COLUMNS, enumerate(lines, 1))
            return _parse(task, split, path, _fields(first_line), enumerate(file, 2))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); fetch it again") from error


def _fields(raw: bytes) -> list[str]:
    """A line's fields. Quotes are ordinary characters; the line's end is \\n or \\r\\n."""
    return raw.decode().removesuffix("\n").removesuffix("\r").split("\t")


def _parse(
    task: Task, split: str, path: Location, columns: list[str], lines: Iterable[tuple[int, bytes]]
) -> Rows:
    """The numbered lines as rows; raises `UserError` with the first broken ones."""
    wanted = list(_COLUMNS.get(task.name, (*task.text, "label")))[: len(task.text) + _labelled(split)]
    if missing := [name for name in wanted if name not in columns]:
        raise UserError(
            f"{path}, line 1: no column {', '.join(map(repr, missing))} among {', '.join(columns)[:200]!r}; "
            f"{task.name} {split} needs {', '.join(map(repr, wanted))} in its header"
        )
    at = [columns.index(name) for name in wanted]
    index_at = columns.index("index") if "index" in columns else None
    to_label = _label_reader(task)
    texts: list[list[str]] = [[] for _ in task.text]
    labels: list[float] = []
    idx: list[int] = []
    broken: list[str] = []
    for number, raw in lines:
        try:
            fields = _fields(raw)
            if len(fields) != len(columns):
                raise ValueError(
                    f"{len(fields)} tab-separated fields where {len(columns)} are due; fetch the file again "
                    f"or, as the hub's QQP does, leave such rows out: awk -F'\\t' 'NF=={len(columns)}'"
                )
            if _labelled(split):
                labels.append(to_label(fields[at[-1]]))
            if index_at is not None and not fields[index_at].isdecimal():
                raise ValueError(f"index {fields[index_at]!r} must be a whole number")
            idx.append(len(idx) if index_at is None else int(fields[index_at]))
        except ValueError as error:  # also bytes that are not UTF-8
            broken.append(f"{path}, line {number}: {error}")
            continue
        for column, i in zip(texts, at, strict=False):  # `at` ends with the label's
            column.append(fields[i])
    if len(broken) > _SHOWN:
        broken[_SHOWN:] = [f"{path}: {len(broken) - _SHOWN} more broken rows"]
    if broken or not idx:
        raise UserError(*(broken or [f"{path} has no rows; fetch it again"]))
    return _rows(task, split, texts, labels, idx)


def _rows(task: Task, split: str, texts: list[list[str]], labels: Any, idx: Any) -> Rows:
    kind = np.float64 if task.regression else np.int64
    return Rows(
        first=texts[0],
        second=texts[1] if len(texts) > 1 else None,
        label=np.asarray(labels).astype(kind) if _labelled(split) else None,
        idx=np.asarray(idx).astype(np.int64),
    )


def _label_reader(task: Task) -> Callable[[str], float]:
    """From a TSV's label to a class id or a score; raises `ValueError` with the value and the rule."""
    ids = {text: i for i, text in enumerate(task.written)}

    def class_id(text: str) -> float:
        if text not in ids:
            raise ValueError(f"label {text!r} must be one of {', '.join(ids)}")
        return ids[text]

    def score(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if not 0 <= value <= 5:
            raise ValueError(f"score {text!r} must be a number from 0 to 5")
        # The hub stores float32: rounded alike here, so that both sources are the same bit for bit.
        return float(np.float32(value))

    return score if task.regression else class_id


def read_hub(task: Task, folder: Path) -> dict[str, Rows]:
    """Our split names → rows, from a folder laid out like the hub's `nyu-mll/glue`.

    That is `TASK/SPLIT-00000-of-0000N.parquet`, with the hub's names. Raises `UserError` with every
    missing split or shard, and where the file's own label names are not `Task.labels`, in that order.
    """

    def read(split: str) -> Rows:
        stem = folder / task.name / task.splits[split]
        if not (shards := sorted(stem.parent.glob(f"{stem.name}-*-of-*.parquet"))):
            raise FileNotFoundError(f"{stem}-00000-of-00001.parquet, as {GLUE_REPO} has it")
        return _read_parquet(task, split, shards)

    return _every_split(task, read)


def _read_parquet(task: Task, split: str, shards: list[Path]) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = [*task.text, "label", "idx"]
    try:
        if not shards[0].stem.endswith(f"-{len(shards):05}"):
            raise ValueError(
                f"the name tells of more or fewer shards than the {len(shards)} found; fetch it again"
            )
        table = pa.concat_tables([pq.read_table(shard, partitioning=None) for shard in shards])
        if missing := [name for name in wanted if name not in table.column_names]:
            raise ValueError(f"no column {', '.join(missing)} among {', '.join(table.column_names)}")
        if not table.num_rows or any(table[name].null_count for name in wanted):
            raise ValueError("it has no rows, or rows with an empty cell")
        stored = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        names = stored.get("info", {}).get("features", {}).get("label", {}).get("names", task.labels)
        if tuple(names) != task.labels:
            raise ValueError(f"its labels are {', '.join(names)}; they must be {', '.join(task.labels)}")
        labels, top = np.asarray(table["label"]), 5 if task.regression else len(task.labels) - 1
        if _labelled(split) and not ((labels >= 0) & (labels <= top)).all():
            raise ValueError(f"labels run from {labels.min()} to {labels.max()}; they must lie in 0..{top}")
    except (pa.ArrowException, ValueError, OSError) as error:
        raise UserError(f"{shards[0]}: {error} (wanted: {task.name} as {GLUE_REPO} has it)") from error
    return _rows(task, split, [table[name].to_pylist() for name in task.text], labels, table["idx"])


def fingerprint(splits: dict[str, Rows]) -> str:
    """sha256 (hex) over names, texts, labels and ids of the splits, whatever file they were read from."""
    digest = hashlib.sha256()
    for name in sorted(splits):
        rows = splits[name]
        kind = None if rows.label is None else rows.label.dtype.kind
        # JSON ends by itself, and what follows has a known length: no two contents share their bytes.
        digest.update(json.dumps([name, kind, rows.first, rows.second], ensure_ascii=False).encode())
        digest.update(rows.idx.astype("<i8").tobytes())
        if rows.label is not None:
            digest.update(rows.label.astype("<f8" if kind == "f" else "<i8").tobytes())
    return digest.hexdigest()
