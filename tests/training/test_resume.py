"""N + N steps equal 2N bit for bit: weights, moments, averages, and every line of the journals."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dora.errors import NotNow, Stopped
from dora.process.signals import StopSignals
from dora.records import study
from dora.records.lock import held
from dora.training import checkpoint, finish, one_run
from dora.training.loop import Loop
from runs import (
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


# In 24 steps the window of dora is 3 to 11, that of adalora 3 to 14; an epoch of 96 rows has 12
# steps. The points lie within the windows, at their ends and behind them, in both epochs.
@pytest.mark.parametrize(
    ("method", "step"),
    [
        ("lora", 7),
        *(
            pytest.param(method, step, marks=pytest.mark.slow)
            for method, step in (
                ("full", 5),
                ("dora", 5),
                ("dora", 10),
                ("dora", 11),
                ("dora", 17),
                ("adalora", 4),
                ("adalora", 13),
                ("adalora", 14),
            )
        ),
    ],
)
def test_a_run_cut_at_any_point_ends_as_one_left_alone(
    method: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = left_alone(f"method={method}")
    whole = record(alone)
    cut(tmp_path, step, monkeypatch, f"method={method}")
    again = run(small(tmp_path, f"method={method}"))
    assert again["resumed_from"] == [step]
    assert again["results"] == whole["results"]
    assert again["ranks"] == whole["ranks"]
    same_files(only_run(alone), only_run(tmp_path))


@pytest.mark.parametrize("method", ["dora", pytest.param("adalora", marks=pytest.mark.slow)])
def test_the_checkpoint_itself_is_the_same_after_a_resume(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With remove=false the final set is part of the method's state too.
    cut(tmp_path / "once", 20, monkeypatch, f"method={method}", "method.remove=false")
    cut(tmp_path / "twice", 9, monkeypatch, f"method={method}", "method.remove=false")
    cut(tmp_path / "twice", 20, monkeypatch, f"method={method}", "method.remove=false")
    one, two = (
        checkpoint.load(only_run(tmp_path / n) / "checkpoint", print) for n in ("once", "twice")
    )
    assert one is not None
    assert two is not None
    assert one[0].keys() == two[0].keys()
    assert all(bool((one[0][k] == two[0][k]).all()) for k in one[0])
    # Not because both are empty.
    assert any(k.startswith("moments/") for k in one[0])
    assert any(k.startswith("method/") for k in one[0])


def flipped(data: bytes) -> bytes:
    """Returns the data with one bit of the last byte changed."""
    return data[:-1] + bytes([data[-1] ^ 1])


def truncated(data: bytes) -> bytes:
    """Returns the data without the last 100 bytes."""
    return data[:-100]


@pytest.mark.parametrize(("method", "damaged"), [("dora", flipped), ("adalora", truncated)])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(
    method: str, damaged: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = left_alone(f"method={method}")
    cut(tmp_path / "cut", 9, monkeypatch, f"method={method}")
    folder = only_run(tmp_path / "cut")
    newest = folder / "checkpoint" / "step-9.checkpoint"
    newest.write_bytes(damaged(newest.read_bytes()))
    seen, original = [], Loop.train_step

    def looked_at(self: Loop, step: int) -> Any:
        seen.append(study.look(folder))
        return original(self, step)

    monkeypatch.setattr(Loop, "train_step", looked_at)
    again = run(small(tmp_path / "cut", f"method={method}"))
    assert again["resumed_from"] == [8]
    # From its first step on a resumed run shows how far it is, by the checkpoint that was used.
    assert (seen[0].state, seen[0].step, seen[0].total_steps) == ("running", 8, 24)
    assert seen[0].left_s is not None
    assert again["results"] == record(alone)["results"]
    same_files(only_run(alone), folder)
    said = (folder / "log.txt").read_text()
    assert "step-9.checkpoint is damaged (its checksum does not match)" in said


def test_a_signal_stops_between_steps_with_exit_code_75_and_the_run_resumes(tmp_path: Path) -> None:
    def words(name: str) -> list[str]:
        return small_words(tmp_path / name, "method=dora", "max_steps=72", "eval_every=12")

    run(configure(*words("alone")))
    # A real process, since the handler, the exit code and the interpreter's end are what is tested.
    process = subprocess.Popen(
        [sys.executable, "-m", "dora.run", *words("stopped")],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 12/"):
            process.send_signal(signal.SIGTERM)
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert record(tmp_path / "stopped")["status"] == "stopped"
    # At least the step whose line was seen: the signal arrives some steps later.
    assert run(configure(*words("stopped")))["resumed_from"][0] >= 12
    same_files(only_run(tmp_path / "alone"), only_run(tmp_path / "stopped"))


# submitit's handler of SIGUSR2 submits the job again: it must hear of the signal, after the run has
# written its checkpoint and given up its lock.
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_stopped_run_hands_the_signal_to_who_was_there_before(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Loop.train_step

    def signalled(self: Loop, step: int) -> Any:
        if step == 9:
            signal.raise_signal(number)
        return original(self, step)

    monkeypatch.setattr(Loop, "train_step", signalled)
    heard: list[tuple[int, str]] = []
    before = signal.signal(number, lambda n, _: heard.append((n, record(tmp_path)["status"])))
    try:
        signals = StopSignals()
        with pytest.raises(Stopped):
            run(small(tmp_path, "method=dora"), signals)
        assert heard == []  # not before the directory is left in good order
        signals.hand_over()
    finally:
        signal.signal(number, before)
    assert heard == [(number, "stopped")]
    assert record(tmp_path)["progress"]["step"] == 9
    assert held(only_run(tmp_path)) is None


@pytest.mark.slow  # a sweep in a process of its own: 7 s
def test_a_signal_after_the_last_step_lets_the_run_end_and_stops_the_sweep(tmp_path: Path) -> None:
    # The signal comes while results are written, when no step is left to stop after.
    late = (
        "import signal; from dora.training import finish; from dora.run import main\n"
        "save = finish._save_weights\n"
        "def late(*a): signal.raise_signal(signal.SIGTERM); return save(*a)\n"
        "finish._save_weights = late; main()"
    )
    sweep = python(
        "-c", late, "-m", *small_words(tmp_path, "method=lora", "max_steps=4", "seed=1,2")
    )
    assert sweep.returncode == 75, sweep.stderr
    assert "2 runs: 1 done, 1 waiting" in sweep.stdout


def test_a_signal_after_the_last_step_leaves_a_single_run_with_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = finish._save_weights
    monkeypatch.setattr(
        finish, "_save_weights", lambda *a: (signal.raise_signal(signal.SIGTERM), save(*a))[1]
    )
    signals = StopSignals()
    assert run(small(tmp_path, "method=lora", "max_steps=4"), signals) == record(tmp_path)
    assert record(tmp_path)["status"] == "done"
    assert signals.received == signal.SIGTERM


def test_a_forced_run_that_was_killed_goes_on_by_the_same_command_and_one_that_failed_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "method=dora", "max_steps=12"
    first = run(small(tmp_path, *words, "checkpoint_every=1"))
    with monkeypatch.context() as patch:
        # As a kill leaves the record: without a word of it.
        patch.setattr(one_run, "_note_end", lambda *_: None)
        cut(tmp_path, 5, monkeypatch, *words, "force=true")
    cut(tmp_path, 7, monkeypatch, *words, "force=true")
    assert record(tmp_path)["resumed_from"] == [5]
    assert record(tmp_path)["status"] == "failed"
    again = run(small(tmp_path, *words, "force=true"))
    assert again["resumed_from"] == []
    assert again["results"] == first["results"]


@pytest.mark.slow  # another process's start: 6 s; the message and the lock have tests of their own
def test_a_directory_in_use_is_refused_and_its_holder_named(tmp_path: Path) -> None:
    start = [sys.executable, "-m", "dora.run", *small_words(tmp_path, "max_steps=20000")]
    process = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("step "))  # it holds the lock by now
    try:
        with pytest.raises(NotNow, match=f"in use by process {process.pid} on"):
            run(small(tmp_path, "max_steps=20000"))
    finally:
        process.kill()
        process.communicate()


def test_time_between_checkpoints_is_no_part_of_training(tmp_path: Path) -> None:
    # Writing a checkpoint must draw no random number and reorder no sum.
    one = run(small(tmp_path / "a", "method=dora", "checkpoint_every=1"))
    two = run(small(tmp_path / "b", "method=dora"))
    assert one["results"] == two["results"]
    same_files(only_run(tmp_path / "a"), only_run(tmp_path / "b"))
