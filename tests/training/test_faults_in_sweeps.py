"""Faults in a sweep: a run that is in use, stopped by a full disk or by a signal."""

from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path

import pytest

from dora.cli.sweep import plan
from dora.errors import NotNow, RunFailed, Stopped
from dora.preparing.prepare import prepare
from dora.process.signals import outside
from dora.records.lock import Lock
from runs import change_record, configure, small_words, typed


def test_what_will_pass_comes_back_whole_from_another_process_and_ends_with_75(
    tmp_path: Path,
) -> None:
    # Launchers return a job's exception by pickle; one with arguments of its own would not survive.
    error = pickle.loads(pickle.dumps(NotNow("no room")))
    assert (type(error), str(error)) == (NotNow, "no room")
    words = small_words(tmp_path, "method=lora")
    folder = prepare(configure(*words)).folder
    folder.mkdir(parents=True)
    other = Lock(folder)
    other.take()
    code, _, said = typed(*words)
    other.release()
    assert code == 75
    assert said == (
        f"stopped: run directory {folder} is in use by process {os.getpid()} on "
        f"{socket.gethostname()}; try again when that has ended, or stop it\n"
    )


def test_a_run_in_use_does_not_stop_the_sweep_that_it_is_one_of(tmp_path: Path) -> None:
    words = small_words(tmp_path, "method=lora")
    locks = []
    for seed in (1, 2):
        folder = prepare(configure(*words, f"seed={seed}")).folder
        folder.mkdir(parents=True)
        locks.append(Lock(folder))
        locks[-1].take()
    code, out, _ = typed("-m", *words, "seed=1,2")
    for held in locks:
        held.release()
    assert code == 75
    assert out.count(f"is in use by process {os.getpid()}") == 2  # not "the sweep was stopped"
    assert not outside.stopping


def test_a_sweep_counts_a_run_that_a_full_disk_stopped_as_one_to_resume_whatever_its_record_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [small_words(tmp_path, "method=lora", f"seed={seed}") for seed in (1, 2)]
    sweep = plan(jobs, lambda words: configure(*words))
    pending = sweep.begin()
    # As the disk left them: no record could be written when the runs ended.
    for p, status in zip(sweep.runs.values(), ("running", "failed"), strict=True):
        change_record(p.folder, status=status, reason="of before")
    no_room = NotNow("No space left on device at run.json; once that is mended")
    with pytest.raises(Stopped, match="2 of 2 runs are not done; the same sweep goes on with them"):
        sweep.end({tuple(words): no_room for words in pending}, None)
    assert "  stale: No space left on device" in capsys.readouterr().out
    # The other run's record says "failed" and no error of this sweep says otherwise.
    with pytest.raises(RunFailed):
        sweep.end({tuple(pending[0]): no_room}, None)


def test_a_sweep_that_a_signal_ended_can_be_taken_up_though_a_run_of_it_had_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [small_words(tmp_path, "method=lora", f"seed={seed}") for seed in (1, 2)]
    sweep = plan(jobs, lambda words: configure(*words))
    sweep.begin()
    broken, failed = (p.folder for p in sweep.runs.values())
    (broken / "run.json").write_text("{")
    change_record(failed, status="failed", reason="out of memory")
    with pytest.raises(RunFailed):
        sweep.end({}, None)
    assert "method=lora seed=1 force=true" in capsys.readouterr().out
    # Stopped wins over failed: the exit code must let a scheduler run the sweep again.
    monkeypatch.setattr(outside, "stopping", True)
    with pytest.raises(Stopped):
        sweep.end({}, None)
