"""Runs on file systems without locks, syncs, memory maps or permissions give the usual files."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dora.files import new_folder, write_atomic
from dora.records.record import Record
from runs import only_run, run, same_files, small


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS])
@pytest.mark.parametrize("of", ["folders", "all"])
def test_files_are_written_where_nothing_can_be_synced(
    of: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Network and FUSE file systems refuse fsync with any of these, often for folders alone.
    monkeypatch.setattr(os, "fsync", no_sync(number, of))
    write_atomic(tmp_path / "text", "x")
    with new_folder(tmp_path / "new") as part:
        (part / "file").write_text("x")
    held = Record(tmp_path / "run")
    held.open({})
    held.start_journals({})
    held.log("metrics.jsonl", {"step": 1})
    assert held.sync()["metrics.jsonl"]["bytes"] == 12
    held.close()
    assert ((tmp_path / "text").read_text(), (tmp_path / "new" / "file").read_text()) == ("x", "x")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_sync_that_fails_for_another_reason_is_an_error(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Here a sync exists and failed, so the data may be lost: never to be passed over.
    monkeypatch.setattr(os, "fsync", no_sync(number, "folders"))
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        write_atomic(tmp_path / "text", "x")


def no_sync(number: int, of: str) -> Callable[[int], None]:
    """Returns an fsync that fails with this errno, for folders or for everything."""

    def fsync(fd: int) -> None:
        if of == "all" or stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))

    return fsync


def test_a_run_where_nothing_can_be_locked_synced_mapped_or_given_rights_is_one_like_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    words = "method=dora", "max_steps=12"
    alone = run(small(tmp_path / "alone", *words))
    with monkeypatch.context() as patch:
        refused = [(os, "chmod"), (os, "fchmod"), (fcntl, "flock"), (mmap, "mmap"), (os, "link")]
        for owner, name in refused:
            patch.setattr(owner, name, none)
        patch.setattr(os, "fsync", no_sync(errno.ENOTSUP, "all"))
        odd = run(small(tmp_path / "odd", *words))
    assert odd["results"] == alone["results"]
    same_files(only_run(tmp_path / "alone"), only_run(tmp_path / "odd"))
