"""Search of a user's folder for the files of one task, unpacked or in a zip archive.

The official layout comes first. Another layout is taken where it leaves no doubt: a folder with
another spelling (rte, sst2), files in another folder of an archive or at its root, or an archive
inside the archive.
"""

from __future__ import annotations

import contextlib
import os
import re
import zipfile
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, cast

from dora.data.reading import Location, check_size, is_file, is_folder, readable
from dora.data.tasks import TASKS, Task
from dora.errors import UserError
from dora.plain import first_few

# Archives with other names than the task's folder. The first of each is the one that GLUE's download
# script fetches; the plain names were those of earlier versions of the data.
_ZIPS = {"qnli": ("QNLIv2.zip", "QNLI.zip"), "qqp": ("QQP-clean.zip", "QQP.zip")}
_AX = ("AX", "diagnostic")  # folders of the diagnostic set
SHOWN = 8  # names quoted from one folder or archive


def find(
    task: Task,
    folder: Path,
    wanted: Collection[str],
    stack: ExitStack,
    looked: dict[str, list[str]],
) -> Location | None:
    """Finds the folder, in `folder` or in an archive there, that holds a file with a `wanted` name.

    Returns None if there is none. Unpacked files come before packed ones.
    `stack`: closes the opened archives, which are in use as long as rows are read.
    `looked`: receives each place searched in vain, with the names of the files there.
    Raises UserError where several places hold such files, or a place cannot be read.
    """
    # The diagnostic set is a single file, which people put beside the tasks' folders.
    if task.name == "ax" and any(is_file(folder / name) for name in wanted):
        return folder
    for name in _AX if task.name == "ax" else (task.folder,):
        # Throughout: the official place first, and only then places that look like it.
        unpacked = _spelled(folder, name)
        if (place := _holding(task, unpacked, unpacked, wanted)) is not None:
            return place
        looked[str(unpacked)] = _names(unpacked)
    for name in _ZIPS.get(task.name, (f"{task.folder}.zip",)):
        path = _spelled(folder, name)
        if not is_file(path):
            continue
        archive = _opened(path, path, stack)
        for root in filter(None, (archive, _inner(task, archive, stack))):
            if (place := _holding(task, root, root / task.folder, wanted)) is not None:
                return place
        looked[str(path)] = _names(archive)
    return None


def state(task: Task, folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Returns path, size and time of the last change of each file that `task` may be read from.

    While the result stays equal, the rows need not be read again. Looks at the files in `folder`
    itself, and in its folders with the name of the task or of the diagnostic set; opens none.
    """
    entries = _entries(folder)
    for entry in list(entries):
        if normalised(entry.name) in (task.name, *map(normalised, _AX)) and entry.is_dir():
            for place, *_ in os.walk(entry.path):
                entries += _entries(Path(place))
    found = []
    for entry in entries:
        with contextlib.suppress(OSError):  # a link to nothing
            about = entry.stat()
            found.append((os.path.abspath(entry.path), about.st_size, about.st_mtime_ns))
    return tuple(sorted(found))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Lists a folder; empty where it cannot be read, which reading it reports."""
    try:
        return list(os.scandir(folder))
    except OSError:
        return []


def normalised(name: str) -> str:
    """Returns the name in lower case, letters and digits only: SST-2 and sst_2 both give sst2."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _spelled(folder: Path, name: str) -> Path:
    """Returns `folder / name`, or the only entry of the folder that differs just in spelling.

    Raises UserError where several entries do.
    """
    try:
        # Not Path.exists, which can hide that one may not look there.
        (folder / name).stat()
        return folder / name
    except FileNotFoundError:
        like = [entry for entry in os.listdir(folder) if normalised(entry) == normalised(name)]
    if len(like) > 1:
        raise UserError(
            f"data.dir={folder} holds {' and '.join(sorted(like))}: name the one that counts {name}"
        )
    return folder / (like[0] if like else name)


def _holding(
    task: Task, root: Location, official: Location, wanted: Collection[str]
) -> Location | None:
    """Returns `official` if it holds a wanted file, else the only folder under `root` that does.

    Returns None if there is no such folder. Raises UserError where there are several.
    """
    if any(is_file(official / name) for name in wanted):
        return official
    parts = [name.rpartition("/") for name in _names(root)]
    # With its slash, by which zipfile.Path knows a folder; "" stands for `root` itself.
    found = {parent + slash for parent, slash, name in parts if name in wanted}
    named = {place: normalised(PurePosixPath(place).name) for place in found}
    # All tasks have a train.tsv: a folder with another task's name is never taken.
    own = [p for p in found if named[p] == task.name] or [p for p in found if named[p] not in TASKS]
    if len(own) > 1:
        places = first_few([p or "." for p in sorted(own)], SHOWN)
        raise UserError(
            f"{root} holds {task.folder} files in {len(own)} folders ({places}): "
            f"leave one of them, named {task.folder}"
        )
    return root / own[0] if own else None


def _names(root: Location) -> list[str]:
    """Lists the paths of files under `root`, relative to it.

    The list holds all files of an archive, but only two levels of a folder, which may be the root
    of a large disk.
    """
    if isinstance(root, zipfile.Path):
        return [name for name in root.root.namelist() if not name.endswith("/")]
    if not is_folder(root):
        return []
    names = []
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.is_dir():
            names += [f"{entry.name}/{name}" for name in sorted(os.listdir(entry))]
        else:
            names.append(entry.name)
    return names


def _opened(path: Path | IO[bytes], name: object, stack: ExitStack) -> zipfile.Path:
    """Opens an archive and returns its root; `stack` closes it. `name`: its name in messages."""
    with readable(name):
        # Opened by us and not by zipfile, so that a missing right is not called a damaged archive.
        file = stack.enter_context(path.open("rb")) if isinstance(path, Path) else path
        try:
            archive = stack.enter_context(zipfile.ZipFile(file))
        except (zipfile.BadZipFile, ValueError) as error:
            raise UserError(
                f"{name} is not a zip archive ({error}); a failed download leaves a web page or a "
                "Git LFS pointer under that name: fetch it again"
            ) from error
    # zipfile.Path begins the text of each path inside with this name, also for an inner archive.
    archive.filename = str(name)
    return zipfile.Path(archive)


def _inner(task: Task, root: zipfile.Path, stack: ExitStack) -> zipfile.Path | None:
    """Opens the archive inside the archive, if exactly one can be meant; else returns None."""
    inside = [name for name in _names(root) if name.lower().endswith(".zip")]
    own = [name for name in inside if normalised(PurePosixPath(name).stem) == task.name]
    if len(own or inside) != 1:
        return None
    path = root / (own or inside)[0]
    with readable(path):
        # Reading the inner archive unpacks it, and a zip bomb would fill the memory.
        check_size(path, root.root.getinfo(path.at).file_size)
        file = stack.enter_context(path.open("rb"))
    return _opened(cast(IO[bytes], file), path, stack)
