"""GLUE as published: an official download (zips or TSVs), or a folder in the hub's layout."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from dora.data.mrpc import RAW_FILES, read_raw
from dora.data.parquet import GLUE_REPO, read_parquet
from dora.data.places import SHOWN, find
from dora.data.reading import Location, is_file, is_folder, readable
from dora.data.tasks import Rows, Task, labelled
from dora.data.tsv import read_tsv
from dora.errors import UserError
from dora.plain import first_few

_AX_FILES = ("AX.tsv", "diagnostic.tsv")


def read_dir(task: Task, folder: Path) -> dict[str, Rows]:
    """Reads the rows of each split, by our split names, from an official GLUE download.

    `folder` holds `FOLDER/` with the TSVs, or `FOLDER.zip` as downloaded; where it holds both, the
    unpacked files are read. Train and development splits must be there; a missing test split, or
    AX, is left out. MRPC may also be there as Microsoft ships it.

    Raises UserError with every missing file and the first broken rows of each file.
    """
    looked: dict[str, list[str]] = {}
    with ExitStack() as stack, readable(f"data.dir={folder}"):
        there = is_folder(folder)
        for files, read in _ways(task) if there else ():
            if (place := find(task, folder, files, stack, looked)) is not None:
                return _every_split(task, partial(read, task, place))
        # Nobody has to have AX. An archive of that name without the file is a mistake, though.
        if task.name == "ax" and not any(name.lower().endswith(".zip") for name in looked):
            return {}
        if there:
            looked[str(folder)] = sorted(os.listdir(folder))
    held = [
        f"{name}, which holds {first_few(names, SHOWN)}" if names else name
        for name, names in looked.items()
    ]
    wrong = f"holds no {task.folder} data (looked in: {'; '.join(held)})"
    raise UserError(
        f"data.dir={folder} {wrong if there else 'is not a folder'}; it must be the folder "
        f"of an official GLUE download, with {task.folder}/ or {task.folder}.zip in it. "
        "Without one, use data=hub or data=mini"
    )


def _ways(task: Task) -> list[tuple[Sequence[str], Callable[[Task, Location, str], Rows]]]:
    """Lists pairs of (file names to look for, function that reads a split), preferred first."""
    if task.name == "ax":
        return [(_AX_FILES, _read_split)]
    names = [_tsv_name(task, split) for split in task.splits]
    if task.name != "mrpc":
        return [(names, _read_split)]
    # The official script often ends at the download of dev_ids.tsv, with only test.tsv written. So
    # train.tsv or dev.tsv come before Microsoft's files, and test.tsv alone comes after them.
    return [(names[:2], _read_split), (RAW_FILES, read_raw), (names[2:], _read_split)]


def _read_split(task: Task, place: Location, split: str) -> Rows:
    names = _AX_FILES if task.name == "ax" else (_tsv_name(task, split),)
    with readable(place):
        path = next((path for name in names if is_file(path := place / name)), place / names[0])
    return read_tsv(task, split, path)


def _tsv_name(task: Task, split: str) -> str:
    # The hub's names but for one word: validation_matched is dev_matched.tsv.
    return task.splits[split].replace("validation", "dev") + ".tsv"


def read_hub(task: Task, folder: Path) -> dict[str, Rows]:
    """Reads the rows of each split, by our split names, from a folder like the hub's repository.

    `folder` has the layout of `nyu-mll/glue`: TASK/SPLIT-00000-of-0000N.parquet, with the hub's
    names. Raises UserError where it has another layout, with every missing split or shard, and
    where the file's own label names are not `Task.labels`, in that order.
    """
    # AX is left out where it is missing, as any split without labels.
    if any(map(labelled, task.splits)) and not _holds_parquet(folder / task.name):
        wrong = f"holds no {task.name}/*.parquet" if is_folder(folder) else "is not a folder"
        raise UserError(
            f"data.dir={folder} {wrong}; with data=hub it must be a copy of {GLUE_REPO}; for an "
            "official GLUE download (zips or unpacked TSVs) write data=dir"
        )

    def read(split: str) -> Rows:
        stem = folder / task.name / task.splits[split]
        # listdir and not glob, which would pass over a folder that one may not read.
        with readable(stem.parent):
            names = sorted(os.listdir(stem.parent)) if is_folder(stem.parent) else []
        pattern = f"{stem.name}-*-of-*.parquet"
        shards = [stem.parent / name for name in names if fnmatch(name, pattern)]
        if not shards:
            raise FileNotFoundError(f"{stem}-00000-of-00001.parquet, as {GLUE_REPO} has it")
        return read_parquet(task, split, shards)

    return _every_split(task, read)


def _holds_parquet(folder: Path) -> bool:
    with readable(folder):
        return is_folder(folder) and any(n.endswith(".parquet") for n in os.listdir(folder))


def _every_split(task: Task, read: Callable[[str], Rows]) -> dict[str, Rows]:
    """Reads every split of `task` with `read`; an unlabelled split may be absent.

    Raises one UserError with the problems of all splits.
    """
    problems: list[str] = []
    splits: dict[str, Rows] = {}
    for split in task.splits:
        try:
            splits[split] = read(split)
        except FileNotFoundError as absent:
            if labelled(split):
                problems.append(
                    f"{task.name} needs its {split} split, and there is no {absent}; fetch it again"
                )
        except UserError as error:
            # Splits of one archive or training file report the same damage.
            problems += [p for p in error.problems if p not in problems]
    if problems:
        raise UserError(*problems)
    return splits


def fingerprint(splits: dict[str, Rows]) -> str:
    """Returns the sha256 in hex of the names, texts, labels and ids of all splits.

    The kind of file that they were read from has no influence.
    """
    digest = hashlib.sha256()
    for name in sorted(splits):
        rows = splits[name]
        kind = None if rows.label is None else rows.label.dtype.kind
        # A JSON list ends at its bracket, and the arrays have a known length: two different
        # contents never give the same bytes.
        digest.update(
            json.dumps([name, kind, rows.first, rows.second], ensure_ascii=False).encode()
        )
        # "<": little-endian on every machine.
        digest.update(rows.idx.astype("<i8").tobytes())
        if rows.label is not None:
            digest.update(rows.label.astype("<f8" if kind == "f" else "<i8").tobytes())
    return digest.hexdigest()
