"""Full disks, full memory and damaged files: each ends in a clear state and message.

Nothing that was written before is lost.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from dora.errors import NotNow, RunFailed, UserError
from dora.files import write_atomic
from dora.records import study
from dora.records.record import Record
from dora.training import checkpoint, one_run
from dora.training.foreseen import foreseen
from dora.training.loop import Loop
from dora.training.processes import World
from runs import (
    command,
    configure,
    cut,
    left_alone,
    only_run,
    python,
    record,
    run,
    same_files,
    small,
    small_words,
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Gives a small file system of its own, 32 MB in memory; skips without the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder],
        check=False,
        capture_output=True,
    ).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    # Lazily: a file that a failed test left open would keep it mounted for ever.
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    """Fills a file system to its last page."""
    # Unbuffered, page by page: a buffer that is flushed later would fail outside the suppression.
    with (folder / "filler").open("wb", buffering=0) as f, contextlib.suppress(OSError):
        while True:
            f.write(bytes(4096))


def before(
    owner: type,
    name: str,
    when: Callable[..., bool],
    fault: Callable[[], None],
    patch: pytest.MonkeyPatch,
) -> None:
    """Patches a method so that `fault` happens just before the call for which `when` is true."""
    original = getattr(owner, name)

    def faulty(self: Any, *args: Any, **more: Any) -> Any:
        if when(self, *args, **more):
            fault()
        return original(self, *args, **more)

    patch.setattr(owner, name, faulty)


# Each of the three kinds of files that training writes: (class, method, the call at which the disk
# is full, the file that the message names, the step of the newest checkpoint then).
WRITES: dict[str, tuple[type, str, Callable[..., bool], str, int]] = {
    "metrics": (Record, "log", lambda _, name, event: name == "metrics.jsonl", "metrics.jsonl", 0),
    "checkpoint": (Loop, "save", lambda loop: loop.step == 12, "step-12.checkpoint", 6),
    "run.json": (
        Record,
        "update",
        lambda _, **new: new.get("progress", {}).get("step") == 12,
        "run.json",
        12,
    ),
}


@pytest.mark.parametrize("what", WRITES)
def test_a_full_disk_stops_the_run_and_the_same_command_goes_on_once_there_is_room(
    what: str, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, when, file, step = WRITES[what]
    at = f"after step {step}" if step else "at its start"  # metrics.jsonl is written before step 6
    alone = left_alone("method=dora")
    with monkeypatch.context() as patch:
        before(owner, name, when, lambda: fill(disk), patch)
        message = (
            rf"No space left on device at .*{file}; once that is mended, "
            rf"the same command takes the run up {at}$"
        )
        with pytest.raises(NotNow, match=message):
            run(small(disk / "results", "method=dora"))
    folder = only_run(disk / "results")
    # "stale" where not even the status could be written: the record still says "running".
    assert study.look(folder).state in ("stopped", "stale")
    (disk / "filler").unlink()
    again = run(small(disk / "results", "method=dora"))
    assert again["resumed_from"] == ([step] if step else [])
    assert again["results"] == record(alone)["results"]
    same_files(only_run(alone), folder)


def test_a_disk_that_a_whole_model_fills_stops_the_run_as_any_full_disk_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("method=full", "keep_model=true", "max_steps=2", "lr=1e-5")
    with monkeypatch.context() as patch, small_files(20_000) as limit:
        # A limit on the size of files stands for the full disk: safetensors itself meets it.
        before(PreTrainedModel, "save_pretrained", lambda *_, **__: True, limit, patch)
        with pytest.raises(RunFailed, match=r"^File too large at .*model; once that is mended"):
            run(small(tmp_path, *words))
    assert "Traceback" not in (only_run(tmp_path) / "log.txt").read_text()
    assert run(small(tmp_path, *words))["resumed_from"] == [2]


def test_a_disk_that_is_full_from_the_start_is_a_message_and_no_traceback(disk: Path) -> None:
    fill(disk)
    with pytest.raises(
        NotNow, match=r"run directory .* cannot be used: No space left on device; once that is"
    ):
        run(small(disk / "results", "method=lora"))
    sweep = command("dora.run", "-m", *small_words(disk / "results", "method=lora", "seed=8,9"))
    assert "cannot be used: No space left on device" in sweep.stderr
    assert "Traceback" not in sweep.stderr
    assert sweep.returncode == 75
    # An empty folder would look like a broken run.
    assert not list(disk.glob("results/runs/*/*/*/*/*/*/s*"))


def test_a_file_system_that_turns_read_only_keeps_the_last_checkpoint(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)

    # A file system with a file open for writing cannot be remounted: during the run every fsync is
    # refused instead.
    with monkeypatch.context() as patch:
        before(
            Loop,
            "save",
            lambda loop: loop.step == 12,
            lambda: patch.setattr("dora.files.os.fsync", refuse),
            patch,
        )
        with pytest.raises(
            RunFailed, match=r"Read-only file system at .*metrics.jsonl; .* after step 6$"
        ):
            run(small(disk / "results", "method=lora"))
    # A user's mistake now, found by the check before training: results= must be writable.
    remount("ro")
    with pytest.raises(UserError, match=r"results=.* cannot be written to"):
        run(small(disk / "results", "method=lora"))
    remount("rw")
    assert run(small(disk / "results", "method=lora"))["resumed_from"] == [6]


def test_a_limit_on_the_size_of_files_is_told_as_a_full_disk_is_and_the_run_goes_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, small_files(20_000) as limit:
        before(Loop, "save", lambda loop: loop.step == 12, limit, patch)
        message = r"^File too large at .*step-12.checkpoint; once that is mended, .* after step 6$"
        with pytest.raises(RunFailed, match=message):
            run(small(tmp_path, "method=lora"))
    assert study.look(only_run(tmp_path)).state == "failed"
    assert run(small(tmp_path, "method=lora"))["resumed_from"] == [6]


# Errors that pass without anyone's work on this machine (room is made, a server comes back): exit
# code 75, to be resumed. The others need somebody: exit code 1.
PASSES = (errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN)
LASTS = (errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


@pytest.mark.parametrize("number", [*PASSES, *LASTS])
def test_whatever_befalls_a_disk_is_told_alike_and_is_temporary_where_it_passes(
    number: int,
) -> None:
    told = foreseen(OSError(number, os.strerror(number), "there"), 6, configure(), 64, 1)
    assert getattr(told, "exit_code", None) == (75 if number in PASSES else 1)
    assert str(told) == (
        f"{os.strerror(number)} at there; once that is mended, "
        "the same command takes the run up after step 6"
    )


@contextlib.contextmanager
def small_files(size: int) -> Iterator[Callable[[], None]]:
    """Gives a function that limits files to `size` bytes until the context ends."""
    # Only the soft limit: an ordinary process may not raise its hard limit again.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refuse(_: int) -> None:
    """Fails as fsync does on a file system that has turned read-only."""
    raise OSError(30, "Read-only file system")


def test_a_broken_record_is_named_and_without_it_the_checkpoint_still_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(tmp_path, 10, monkeypatch, "method=dora", "checkpoint_every=null")
    path = only_run(tmp_path) / "run.json"
    path.write_text(path.read_text()[:200])  # as a disk that lost its end would leave it
    with pytest.raises(
        UserError, match=r"run.json cannot be read .* remove it to resume, or use force=true"
    ):
        run(small(tmp_path, "method=dora"))
    assert study.look(only_run(tmp_path)).state == "broken"
    # The checkpoint holds everything that training needs; the record is made anew.
    path.unlink()
    assert run(small(tmp_path, "method=dora"))["resumed_from"] == [6]


def test_whatever_nobody_foresaw_is_in_the_log_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(tmp_path, 10, monkeypatch, "method=full")
    found = record(tmp_path)
    assert (found["status"], found["reason"]) == ("failed", "AssertionError: power cut")
    # The traceback: without it a bug could not be found from a finished sweep's logs.
    assert "in train_step" in (only_run(tmp_path) / "log.txt").read_text()


def test_a_directory_that_is_removed_while_a_checkpoint_is_written_is_a_message_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def removed(path: Path, *content: Any) -> None:
        """Writes as `write_atomic`, after somebody has removed the run's directory."""
        shutil.rmtree(path.parents[1])
        write_atomic(path, *content)

    monkeypatch.setattr(checkpoint, "write_atomic", removed)
    with pytest.raises(RunFailed, match="was removed or moved away while this process") as found:
        run(small(tmp_path, "method=lora", "max_steps=2", "checkpoint_every=1"))
    assert isinstance(found.value.__cause__, FileNotFoundError)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), MemoryError()],
)
def test_out_of_memory_names_what_to_try(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(Loop, "train_step", full)
    with pytest.raises(
        RunFailed,
        match=r"with 4 examples of up to 48 .*"
        r"grad_accum=4 \(the same steps, in parts of 2\) or batch_size=4 or",
    ):
        run(small(tmp_path, "method=lora", "grad_accum=2"))
    # One example at a time cannot be cut further.
    with pytest.raises(RunFailed, match=r"helps\): try max_length=24$"):
        run(small(tmp_path, "method=lora", "batch_size=1"))


@pytest.mark.slow  # fills its process's memory: 5 s
def test_a_memory_that_is_really_full_ends_in_that_message(tmp_path: Path) -> None:
    # In another process, since the limit holds for all of it. 4 MB above what is in use when
    # training begins: enough for the step's own code, too little for its activations.
    starved = (
        "import resource, sys; from pathlib import Path; "
        "from dora.training.loop import Loop; from dora.run import main\n"
        "step = Loop.train_step\n"
        "def starve(self, n):\n"
        "    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20),) * 2)\n"
        "    return step(self, n)\n"
        "Loop.train_step = starve; main()"
    )
    words = small_words(tmp_path, "method=full", "batch_size=96")
    done = python("-c", starved, *words)
    assert done.returncode == 1, done.stderr
    assert (
        "failed: out of memory with 96 examples of up to 48 tokens at a time: try grad_accum=2"
        in done.stderr
    )
    assert record(tmp_path)["status"] == "failed"


def test_a_failed_write_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    # Nothing can lie below a file; no file can replace a folder.
    for path in (tmp_path / "file" / "x", tmp_path / "folder"):
        with pytest.raises(OSError, match="irectory") as e:
            write_atomic(path, "text")
        # Not the temporary file, whose name nobody knows.
        assert (e.value.filename, e.value.filename2) == (str(path), None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("number", [*PASSES, *LASTS])
@pytest.mark.parametrize("call", ["mkdir", "open", "fsync", "replace"])
def test_what_keeps_a_directory_from_being_opened_is_temporary_where_it_passes(
    number: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    patched = (Path if call in ("mkdir", "replace") else os, call)
    record = Record(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(*patched, fail)
        with pytest.raises((UserError, NotNow), match=r"cannot be used: ") as e:
            record.open({})
    record.close()
    kind = NotNow if number in PASSES else UserError
    assert (type(e.value), kind.exit_code) == (kind, 75 if number in PASSES else 2)
    assert f"run directory {tmp_path / 'run'} cannot be used: {os.strerror(number)}" in str(e.value)
    # A folder with a lock alone would look like a run that lost its record.
    assert not (tmp_path / "run").exists()


def test_a_process_that_was_killed_beside_this_one_is_no_failure_of_the_run() -> None:
    # gloo says so to the survivors; it has no exception class for it.
    gloo = RuntimeError("[/a/pair.cc:553] Connection closed by peer [127.0.0.1]:39121")
    found = foreseen(gloo, 8, configure(), 64, 1)
    assert isinstance(found, NotNow)
    assert str(found) == (
        "another process of this run ended before its time; "
        "the same command takes the run up after step 8"
    )
    assert foreseen(RuntimeError("shapes do not fit"), 8, configure(), 64, 1) is None


def test_a_full_memory_names_an_evaluation_that_takes_more_rows_than_a_step() -> None:
    full = torch.OutOfMemoryError("CUDA out of memory")

    def told(evaluated: int, processes: int, *words: str) -> str:
        return str(foreseen(full, 0, configure("max_length=128", *words), evaluated, processes))

    small, large = (told(256, 1, f"batch_size={batch}") for batch in (4, 256))
    assert small.startswith(
        "out of memory with 4 examples of up to 128 tokens at a time (256 in an evaluation, where "
        "only a smaller max_length helps): try grad_accum=2 "
    )
    assert "evaluation" not in large
    # Of 16 rows each of two processes has 8, in two parts.
    assert "with 4 examples" in told(4, 2, "batch_size=16", "grad_accum=2")


def test_the_rows_that_a_message_on_memory_names_are_those_of_one_process(tmp_path: Path) -> None:
    world = World(0, 2, torch.device("cpu"))
    record: Any = SimpleNamespace(checkpoints=tmp_path)

    def told(batch: int) -> str:
        p: Any = SimpleNamespace(config=configure("max_length=128", f"batch_size={batch}"))
        return str(one_run._cause(MemoryError(), p, world, record))

    # Each of two processes has half of a batch, and half of an evaluation's 64 rows.
    assert "with 40 examples of up to 128 tokens at a time: try" in told(80)
    assert "with 16 examples of up to 128 tokens at a time (32 in an evaluation," in told(32)
