"""Where in a user's folder the files of one task lie: unpacked or in a zip, under GLUE's names or nearly so.

The official layout comes first. Another one is taken where it leaves no doubt: a folder spelled in another
way (rte, sst2), files in another folder of an archive or at its root, or an archive inside the archive.
"""

from __future__ import annotations

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

_ZIPS = {"qnli": ("QNLI.zip", "QNLIv2.zip"), "qqp": ("QQP.zip", "QQP-clean.zip")}
_SHOWN = 8  # names quoted from one folder or archive


def find(
    task: Task,
    folder: Path,
    wanted: Collection[str],
    stack: ExitStack,
    looked: dict[str, list[str]],
) -> Location | None:
    """The folder, in `folder` or in an archive there, that holds a file of a `wanted` name; None where none does.

    Unpacked files come before packed ones. Opened archives are left to `stack`; `looked` gets the places looked at
    in vain, and the names of what they hold. Raises UserError where several places hold such files, or one cannot be read.
    """
    if task.name == "ax" and any(is_file(folder / name) for name in wanted):
        return folder
    for name in ("AX", "diagnostic") if task.name == "ax" else (task.folder,):
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


def plain(name: str) -> str:
    """A name without what people spell differently: SST-2, sst_2 and sst2 are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _spelled(folder: Path, name: str) -> Path:
    """`folder / name`, or the one entry of the folder that differs from it in spelling alone."""
    try:
        (folder / name).stat()
        return folder / name
    except FileNotFoundError:
        like = [entry for entry in os.listdir(folder) if plain(entry) == plain(name)]
    if len(like) > 1:
        raise UserError(
            f"data.dir={folder} holds {' and '.join(sorted(like))}: name the one that counts {name}"
        )
    return folder / (like[0] if like else name)


def _holding(
    task: Task, root: Location, official: Location, wanted: Collection[str]
) -> Location | None:
    """`official` where it holds a wanted file, else the only folder under `root` that does."""
    if any(is_file(official / name) for name in wanted):
        return official
    parts = [name.rpartition("/") for name in _names(root)]
    found = {parent + slash for parent, slash, name in parts if name in wanted}
    named = {place: plain(PurePosixPath(place).name) for place in found}
    own = [p for p in found if named[p] == task.name] or [p for p in found if named[p] not in TASKS]
    if len(own) > 1:
        raise UserError(
            f"{root} holds {task.folder} files in {len(own)} folders ({shown([p or '.' for p in sorted(own)])}): "
            f"leave one of them, named {task.folder}"
        )
    return root / own[0] if own else None


def _names(root: Location) -> list[str]:
    """Paths of the files under `root` relative to it: all of an archive's, of a folder's two levels."""
    if isinstance(root, zipfile.Path):
        return [name for name in root.root.namelist() if not name.endswith("/")]
    if not is_folder(root):
        return []
    names = []
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        inside = os.listdir(entry) if entry.is_dir() else None
        names += (
            [entry.name] if inside is None else [f"{entry.name}/{name}" for name in sorted(inside)]
        )
    return names


def _opened(path: Path | IO[bytes], name: object, stack: ExitStack) -> zipfile.Path:
    """The root of the archive called `name`, which `stack` closes."""
    with readable(name):
        file = stack.enter_context(path.open("rb")) if isinstance(path, Path) else path
        try:
            archive = stack.enter_context(zipfile.ZipFile(file))
        except (zipfile.BadZipFile, ValueError) as error:
            raise UserError(
                f"{name} is not a zip archive ({error}); a failed download leaves a web page or a "
                "Git LFS pointer under that name: fetch it again"
            ) from error
    archive.filename = str(name)  # what a path in it is called
    return zipfile.Path(archive)


def _inner(task: Task, root: zipfile.Path, stack: ExitStack) -> zipfile.Path | None:
    """The archive inside the archive, where there is one that can be meant."""
    inside = [name for name in _names(root) if name.lower().endswith(".zip")]
    own = [name for name in inside if plain(PurePosixPath(name).stem) == task.name]
    if len(own or inside) != 1:
        return None
    path = root / (own or inside)[0]
    with readable(path):
        check_size(path, root.root.getinfo(path.at).file_size)
        file = stack.enter_context(path.open("rb"))
    return _opened(cast(IO[bytes], file), path, stack)


def shown(names: list[str]) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
