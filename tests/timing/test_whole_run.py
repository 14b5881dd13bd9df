"""Stages add up to the whole of a process, and both contenders of a whole run train alike."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dora import bench
from dora.errors import RunFailed
from dora.timing import stages, whole_run
from dora.timing.stages import EVALUATIONS, LOAD, REST, STAGES, START, STEPS, WRITING, Stages
from dora.timing.whole_run import TRAINER, runs_table, speedup
from runs import run, small, small_glue


class Clock:
    """A clock of both kinds that goes only when it is told to, the CPU's at half the speed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, began: float) -> None:
        self.began = self.now = began
        fake = SimpleNamespace(
            perf_counter=lambda: self.now, process_time=lambda: (self.now - self.began) / 2
        )
        monkeypatch.setattr(stages, "time", fake)

    def go(self, seconds: float) -> None:
        """Lets time pass."""
        self.now += seconds


def test_a_stage_within_another_is_not_counted_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = Clock(monkeypatch, 100.0)
    found = Stages(100.0)
    clock.go(3)  # from the start of the process on
    with found.stage(LOAD):
        clock.go(5)
    clock.go(1)
    with found.stage(STEPS):
        clock.go(10)
        with found.stage(EVALUATIONS):
            clock.go(20)
            with found.stage(WRITING):
                clock.go(2)
    clock.go(7)  # between stages behind the first step
    found.write(tmp_path / "f", score=0.5)
    wall = {START: 4, LOAD: 5, STEPS: 10, EVALUATIONS: 20, WRITING: 2, REST: 7}
    expected = {stage: [wall.get(stage, 0), wall.get(stage, 0) / 2] for stage in STAGES}
    assert json.loads((tmp_path / "f").read_text()) == {"stages": expected, "score": 0.5}


def test_a_wrapped_function_returns_and_raises_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.0)
    found = Stages(0.0)

    class Work:
        def half(self, of: int) -> float:
            clock.go(1)
            return of / 2 if of else 1 / of

    found.wrap(Work, "half", LOAD)
    assert Work().half(of=8) == 4
    with pytest.raises(ZeroDivisionError):
        Work().half(0)
    clock.go(1)
    with found.stage(STEPS):
        pass
    assert found.spent[LOAD] == [2, 1]
    assert found.spent[START] == [1, 0.5]  # outside of it again, also after an error


def test_a_run_of_ours_is_in_every_stage_at_some_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Undone(Stages):
        """Wraps for this test alone."""

        def wrap(self, owner: Any, function: str, name: str) -> None:
            monkeypatch.setattr(owner, function, getattr(owner, function))
            super().wrap(owner, function, name)

    found = Undone(time.perf_counter())
    stages.watch(found)
    assert run(small(tmp_path, "method=lora", "max_steps=12"))["status"] == "done"
    assert all(found.spent[stage][0] > 0 for stage in STAGES)
    # Tokenising, steps and evaluations of so small a run take longer than what is between them.
    assert found.spent[STEPS][0] > found.spent[REST][0]


def one(wall: float, score: float) -> dict[str, Any]:
    """Returns the figures of a run whose stages all take an eighth of `wall`."""
    spent = {stage: [wall / 8, wall / 4] for stage in STAGES}
    return {"wall_s": wall, "cpu_s": 2 * wall, "score": score, "stages": spent}


def test_the_table_shows_medians_and_the_speed_up_within_a_seed() -> None:
    found = {
        "ours, fp32": [one(8, 0.5), one(80, 0.6), one(16, 0.7)],
        TRAINER: [one(24, 0.5), one(160, 0.6), one(40, 0.6)],
    }
    assert speedup(found, "ours, fp32", "wall_s") == 2.5  # of 3, 2 and 2.5
    about = {"task": "rte", "model": "minilm", "data": "mini", "epochs": 3, "device": "cpu"}
    about |= {"threads": 1}
    table = runs_table(about, found)
    assert table[0].startswith("rte of data=mini, minilm, LoRA r8, 3 epochs, cpu, 1 thread: ")
    rows = {
        cells[1].strip(): [c.strip() for c in cells[2:-1]]
        for cells in (r.split("|") for r in table[2:])
    }
    assert rows["steps"] == ["2.0", "4.0", "12", "5.0", "10.0", "12"]
    assert rows["whole run"] == ["16.0", "32.0", "100", "40.0", "80.0", "100"]
    assert rows["Trainer / this"] == ["2.50", "2.50", "", "1.00", "1.00", ""]
    assert rows["score, by seed"][0] == "0.5000 0.6000 0.7000"


def test_the_command_refuses_a_folder_of_data_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--run", "--data", "/nowhere"])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 2
    assert "--data /nowhere: no such folder" in capsys.readouterr().err


def test_a_run_that_fails_ends_the_command_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = "--run --data mini --model tiny_roberta --epochs 1"
    monkeypatch.setattr(sys, "argv", ["bench", *words.split()])
    monkeypatch.setattr(whole_run, "OURS", "import sys; sys.exit('the disk is full')")
    with pytest.raises(RunFailed, match="the disk is full"):
        bench.main()


@pytest.mark.slow
def test_stages_of_real_runs_add_up_and_both_contenders_are_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"--run --data {small_glue()} --model tiny_roberta --epochs 1 --repeats 1 --threads 1"
    monkeypatch.setattr(sys, "argv", ["bench", *words.split(), "--to", str(tmp_path / "r.json")])
    began = time.perf_counter()
    bench.main()
    whole = time.perf_counter() - began
    (runs,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert list(runs["figures"]) == ["ours, fp32", TRAINER]
    for (seen,) in runs["figures"].values():
        for i, total in enumerate((seen["wall_s"], seen["cpu_s"])):
            assert sum(spent[i] for spent in seen["stages"].values()) == pytest.approx(total)
        assert min(seen["stages"][stage][0] for stage in (START, LOAD, STEPS, EVALUATIONS)) > 0
        assert 0 <= seen["score"] <= 1
    assert sum(seen["wall_s"] for (seen,) in runs["figures"].values()) <= whole
    assert "| whole run " in capsys.readouterr().out
