"""force=true and divergence: their effect on a run's directory, with a kill at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dora.errors import RunFailed, UserError
from dora.records.record import Record
from dora.records.run_json import read_done
from record_files import write_run

HEADER = {"config": {"lr": 0.1}, "words": ["task=rte"]}
# Everything that a run may leave, at any time of its life.
FILES = (
    "checkpoint/step-6.checkpoint",
    "checkpoint/step-12.checkpoint",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "model/model.safetensors",
    "metrics.jsonl",
    "ranks.jsonl",
    "predictions.npz",
    "best.safetensors",
)
REASON = "diverged: loss not finite at step 13; lower lr (now 0.1)"


def finished() -> str:
    """Returns the run.json of a finished run."""
    with tempfile.TemporaryDirectory() as place:
        return (write_run(Path(place), "lora", 1, 0.5) / "run.json").read_text()


# Made when this module is imported: later its temporary folder's removal would be among the
# removals that tests count.
DONE = finished()


def directory(folder: Path, status: str, **more: Any) -> Path:
    """Makes a run directory with everything that a run leaves at any time."""
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")
    record = {
        "schema": 1,
        "status": status,
        "reason": None,
        "config": {"lr": 0.1},
        "words": ["task=rte"],
        "resumed_from": [6],
        "starts": [],
        "progress": {"step": 12, "total_steps": 24},
        "times": {"started": "2026-01-01T00:00:00+00:00"},
        **more,
    }
    if status == "done":
        record = {**json.loads(DONE), **more}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def opened(folder: Path, force: bool) -> dict[str, Any]:
    """Opens the directory as a run does, and returns its run.json after that."""
    record = Record(folder)
    try:
        record.open(HEADER, force)
    finally:
        record.close()
    return json.loads((folder / "run.json").read_text())  # type: ignore[no-any-return]


def left(folder: Path) -> list[str]:
    """Returns the files of the run before that are still there."""
    return [name for name in FILES if (folder / name).exists()]


@pytest.mark.parametrize("status", ["done", "failed", "diverged"])
def test_force_begins_a_run_that_has_ended_anew(status: str, tmp_path: Path) -> None:
    found = opened(directory(tmp_path, status, divergences=2), force=True)
    assert left(tmp_path) == []
    assert (found["status"], found["resumed_from"], found["starts"]) == ("running", [], [])
    # Nothing of the run before may be taken for the new one's.
    assert not {"progress", "divergences", "clearing", "results"} & found.keys()
    assert found["times"]["started"] > "2026-01-01"


# So that a sweep with force=true that was cut off can be typed again, and trains no run twice.
@pytest.mark.parametrize("status", ["running", "stopped", "waiting"])
def test_force_resumes_a_run_that_was_killed_or_stopped(status: str, tmp_path: Path) -> None:
    found = opened(directory(tmp_path, status), force=True)
    assert left(tmp_path) == list(FILES)
    assert (found["status"], found["resumed_from"]) == ("running", [6])


@pytest.mark.parametrize("status", ["failed", "diverged", "stopped", "running"])
def test_without_force_every_unfinished_run_goes_on(status: str, tmp_path: Path) -> None:
    assert opened(directory(tmp_path, status), force=False)["resumed_from"] == [6]
    assert left(tmp_path) == list(FILES)


class Killed(BaseException):
    """Stands for SIGKILL: nothing that the process does afterwards reaches the disk."""

    # A BaseException, so that no `except Exception` of the code under test survives it.


@contextlib.contextmanager
def kill(at: int, patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Raises Killed before the `at`-th change of a folder's names; gives those changed so far."""
    # Every way to change names is watched. What changes a file's content alone writes whole files
    # under other names first, so it shows as a replacement.
    changed: list[str] = []

    def before(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **more: Any) -> Any:
            if len(changed) >= at:  # and at every later one: a dead process cleans nothing up
                raise Killed
            changed.append(os.path.basename(path))
            return original(path, *args, **more)

        return call

    with patch.context() as while_it_lives:
        # Python 3.10's Path holds functions of `os` of its own.
        own = getattr(pathlib, "_NormalAccessor", None)
        for name in ("unlink", "remove", "rmdir", "replace", "rename"):
            watched = before(getattr(os, name))
            while_it_lives.setattr(os, name, watched)
            if hasattr(own, name):
                while_it_lives.setattr(own, name, staticmethod(watched))
        yield changed


def changes_of_a_forced_start(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    """Returns the names that a forced start removes or replaces, in order."""
    with kill(1000, patch) as changed:
        opened(directory(folder, "done"), force=True)
    return changed


@pytest.mark.parametrize("again", [True, False], ids=["force", "no force"])
@pytest.mark.parametrize("status", ["done", "diverged"])
def test_a_kill_at_any_removal_of_a_forced_start_ends_in_a_sound_new_run(
    status: str, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(changes_of_a_forced_start(tmp_path / "alone", monkeypatch))
    assert count > len(FILES)
    # A directory for each moment at which the process may be killed.
    for at in range(count):
        folder = directory(tmp_path / str(at), status)
        with contextlib.suppress(Killed), kill(at, monkeypatch):
            opened(folder, force=True)
        between = read_done(folder)
        # A done record is never without its files.
        assert between is None or left(folder) == list(FILES)
        if left(folder) == list(FILES) and not again:
            continue  # nothing was forced yet
        found = opened(folder, force=again)
        assert left(folder) == []
        assert (found["status"], found["resumed_from"], "clearing" in found) == (
            "running",
            [],
            False,
        )


def test_the_checkpoint_is_removed_first_and_the_record_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = changes_of_a_forced_start(tmp_path, monkeypatch)
    # Without the temporary names of atomic writes.
    names = [name for name in changed if not name.startswith(".")]
    # Checkpoints first: a new run must never go on from one of the run before.
    assert set(names[:3]) == {"step-6.checkpoint", "step-12.checkpoint", "checkpoint"}
    assert names[-1] == "run.json"


def test_a_checkpoint_that_cannot_be_removed_keeps_a_forced_run_from_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory(tmp_path, "done")
    rmdir = os.rmdir

    def busy(path: Any, *args: Any, **more: Any) -> None:
        if os.path.basename(path) == "checkpoint":
            raise OSError(39, "Directory not empty", str(path))
        rmdir(path, *args, **more)

    monkeypatch.setattr(os, "rmdir", busy)
    with pytest.raises(UserError, match="cannot be used: Directory not empty"):
        opened(tmp_path, force=True)
    # The record said that the run was being cleared, so the next start goes on with that.
    monkeypatch.setattr(os, "rmdir", rmdir)
    assert opened(tmp_path, force=False)["resumed_from"] == []


# One divergence may be the device's fault, so the run is tried once more.
def test_a_run_that_diverged_once_is_taken_up(tmp_path: Path) -> None:
    found = opened(directory(tmp_path, "diverged", reason=REASON, divergences=1), force=False)
    assert (found["status"], found["divergences"]) == ("running", 1)


def test_a_run_that_diverged_again_is_not_trained_a_third_time(tmp_path: Path) -> None:
    before = json.loads(
        (directory(tmp_path, "diverged", reason=REASON, divergences=2) / "run.json").read_text()
    )
    message = (
        r"loss not finite at step 13; lower lr \(now 0.1\), "
        "or add force=true to start it anew: it diverged 2 times"
    )
    with pytest.raises(RunFailed, match=message):
        opened(tmp_path, force=False)
    assert json.loads((tmp_path / "run.json").read_text()) == before
    assert opened(tmp_path, force=True)["status"] == "running"
