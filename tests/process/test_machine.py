"""Half-made files name their maker and are removed once it is gone.

Those of this machine go at once, those of another machine after a day.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dora.cli.sweep import plan
from dora.data.tasks import Rows
from dora.data.token_cache import tokenised
from dora.files import new_folder, write_atomic
from dora.process import machine
from dora.records.cleaning import tidy
from dora.records.lock import Lock
from dora.records.record import Record
from runs import configure, only_run, run, small, small_words, typed


def gone() -> int:
    """Returns the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def aged(path: Path) -> Path:
    """Makes `path` two days old."""
    then = time.time() - 2 * machine.FOREIGN_AGE_S
    os.utime(path, (then, then))
    return path


def left(folder: Path, name: str, as_folder: bool) -> Path:
    """Makes a half-made file or folder and returns its path."""
    path = folder / name
    if as_folder:
        path.mkdir()
        (path / "weights").write_bytes(b"half")
    else:
        path.write_bytes(b"half")
    return path


def here(pid: int) -> str:
    """Returns the mark of the process `pid` of this machine."""
    return machine.mark().replace(str(os.getpid()), str(pid), 1)


@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.parametrize(
    ("whose", "old", "stays"),
    [
        ("a living process", True, True),
        ("a dead process", False, False),
        ("another machine", False, True),
        ("another machine", True, False),
        ("another program", True, True),
    ],
)
def test_only_what_no_living_process_makes_is_removed(
    whose: str, old: bool, stays: bool, as_folder: bool, tmp_path: Path
) -> None:
    marks = {
        "a living process": here(os.getppid()),
        "a dead process": here(gone()),
        "another machine": f"{os.getppid()}-00000000",
        "another program": "1234",
    }
    path = left(tmp_path, f".a.{marks[whose]}.part", as_folder)
    other = left(tmp_path, "kept.part", as_folder)
    if old:
        aged(path)
    machine.sweep(tmp_path, ".*.part")
    assert path.exists() is stays
    assert other.exists()


@pytest.mark.parametrize("differs", ["host", "boot", "numbering"])
def test_a_machine_is_its_name_its_kernels_start_and_the_space_of_its_process_ids(
    differs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = machine.mark()
    owner, name = (socket, "gethostname") if differs == "host" else (machine, differs)
    monkeypatch.setattr(owner, name, lambda: "another")
    assert machine.mark() != mine
    assert machine.mark().split("-")[0] == mine.split("-")[0] == str(os.getpid())


def test_what_is_written_bears_the_mark_of_its_maker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    replace = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda path, to: (seen.append(path.name), replace(path, to))[1]
    )
    write_atomic(tmp_path / "text", "x")
    with new_folder(tmp_path / "folder"):
        pass
    assert seen == [f".text.{machine.mark()}.tmp", f".folder.{machine.mark()}.part"]


def test_a_file_written_again_takes_what_killed_processes_left_of_it_along(tmp_path: Path) -> None:
    dead = left(tmp_path, f".table.md.{here(gone())}.tmp", False)
    living = left(tmp_path, f".table.md.{here(os.getppid())}.tmp", False)
    another = left(tmp_path, f".other.md.{here(gone())}.tmp", False)
    write_atomic(tmp_path / "table.md", "x")
    assert [path.exists() for path in (dead, living, another)] == [False, True, True]


def test_a_new_folder_removes_what_dead_processes_left_of_it_and_nothing_else(
    tmp_path: Path,
) -> None:
    dead, living = here(gone()), here(os.getppid())
    mine = [left(tmp_path, f".out.{mark}.part", True) for mark in (dead, machine.mark())]
    others = [left(tmp_path, f".{name}.part", True) for name in (f"out.{living}", f"outer.{dead}")]
    with new_folder(tmp_path / "out") as part:
        (part / "file").write_text("whole")
    assert not any(path.exists() for path in mine)
    assert all(path.exists() for path in others)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


def test_opening_a_run_removes_what_killed_processes_left_in_it(tmp_path: Path) -> None:
    for name in ("checkpoint", "adapter", "export"):
        (tmp_path / name).mkdir()
    dead, living = here(gone()), here(os.getppid())
    away = [
        left(tmp_path, f"{place}.x.{dead}.tmp", False) for place in ("", "checkpoint/", "adapter/")
    ]
    away += [
        left(tmp_path, f".140.{dead}.now", False),
        left(tmp_path, f".export.{dead}.part", True),
    ]
    kept = [
        left(tmp_path, f".export.{living}.part", True),
        left(tmp_path, f".140.{living}.now", False),
    ]
    kept += [
        left(tmp_path, f"export/.x.{living}.tmp", False),
        left(tmp_path, ".notes.77.tmp", False),  # without a mark: not the suite's
    ]
    record = Record(tmp_path)
    record.open({})
    record.close()
    assert [path for path in away if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []


class Words:
    """A tokenizer of two tokens for every row."""

    pad_token_id = 0

    def __call__(
        self, first: list[str], second: list[str] | None, **_: object
    ) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1, 2] for _ in first]}


def test_opening_the_token_cache_removes_what_killed_processes_left_in_it(tmp_path: Path) -> None:
    rows = Rows(["a", "b"], None, None, np.arange(2))
    key = "0123456789abcdef"
    dead = left(tmp_path, f".{key}.{here(gone())}.part", True)
    living = left(tmp_path, f".{key}.{here(os.getppid())}.part", True)
    others = [aged(left(tmp_path, name, False)) for name in (".keep", f".{key}.a_b3c9x1")]
    for _ in range(2):  # the second time from the cache
        tokenised(tmp_path, "x", {"dev": rows}, Words(), 8, False)
    assert not dead.exists()
    assert living.exists()
    assert all(path.exists() for path in others)


def test_a_checkpoint_that_a_kill_left_beside_a_done_run_goes_with_the_next_look_at_it(
    tmp_path: Path,
) -> None:
    words = small_words(tmp_path, "method=lora", "max_steps=2")
    run(small(tmp_path, "method=lora", "max_steps=2"))
    folder, file = only_run(tmp_path), only_run(tmp_path) / "checkpoint" / "step-2.checkpoint"

    def again() -> Path:
        file.parent.mkdir()
        file.write_bytes(b"old")
        return file.parent

    assert again().exists()
    other = Lock(folder)
    other.take()  # somebody is at work there, and removes it by itself
    assert typed(*words)[0] == 0
    assert file.exists()
    other.release()
    assert "already done" in typed(*words)[1]
    assert not file.parent.exists()
    again()
    assert plan([words], lambda w: configure(*w)).begin() == []
    assert not file.parent.exists()
    again()
    run(small(tmp_path, "method=lora", "max_steps=2"))  # opened to predict what came later
    assert not file.parent.exists()
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "stopped"}))
    again()
    tidy(folder)  # an unfinished run's is what it goes on from
    assert file.exists()
