"""What is left of a sweep is said by its runs, and only as far as finished runs tell."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dora.cli import remaining
from dora.configuration import search_file
from dora.process import machine
from dora.records import study
from dora.records.directories import directories
from dora.records.place import place_of
from record_files import write_run
from runs import small_words, typed


def folders(results: Path, *states: str, **places: str) -> list[Path]:
    """Makes runs of one row, seed after seed; a finished one took ten seconds times its seed."""
    return [
        write_run(results, "lora", seed, 0.8, status=state, **places)
        for seed, state in enumerate(states, 1)
    ]


def test_the_runs_behind_one_take_as_long_as_those_done(tmp_path: Path) -> None:
    # A failed run that lies behind is still to be trained again; one that lies before is not.
    runs = folders(tmp_path, "done", "failed", "done", "failed", "waiting", "waiting")
    with remaining.noted(tmp_path / "multirun", runs, runs[1:]):
        assert remaining.line(runs[2]) == "left of the sweep: about 60 s of training, 3 runs"
        assert remaining.line(runs[5]) is None  # the last one
    assert remaining.line(runs[2]) is None  # the sweep is over
    assert not list((tmp_path / "multirun").iterdir())
    assert remaining.VARIABLE not in os.environ


def test_a_round_of_a_search_is_called_one_and_unlike_runs_are_not_counted(tmp_path: Path) -> None:
    runs = folders(tmp_path, "done", "waiting")
    other = folders(tmp_path, "waiting", model="roberta_base")
    with remaining.noted(tmp_path, [*runs, *other], [*runs, *other], "round"):
        assert remaining.line(runs[0]) == (
            "left of the round: about 10 s of training, 2 runs; 1 of them unlike any that is done, "
            "and not counted"
        )


def test_the_note_of_a_sweep_that_was_killed_is_removed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = folders(tmp_path, "waiting")
    mark = machine.mark()
    dead, other = (tmp_path / f"multirun/runs.{mark}.tmp" for mark in (mark, "7-00000000"))
    other.parent.mkdir()
    for left in (dead, other):  # that of another machine may be in use
        left.write_text("{}")
    monkeypatch.setattr(machine, "lives", lambda pid: False)
    monkeypatch.setattr(machine, "mark", lambda: mark.replace(mark.split("-")[0], "1"))
    with remaining.noted(tmp_path / "multirun", runs, runs):
        assert not dead.exists()
        assert Path(os.environ[remaining.VARIABLE]).name == f"runs.{machine.mark()}.tmp"
    assert list(other.parent.iterdir()) == [other]


def test_nothing_is_said_where_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = folders(tmp_path, "failed", "waiting")
    with remaining.noted(tmp_path, runs, runs):
        assert remaining.line(runs[0]) is None
    assert remaining.line(runs[0]) is None
    (tmp_path / "file").write_text("")
    # A disk that does not take the note costs the estimate, not the sweep.
    with remaining.noted(tmp_path / "file" / "multirun", runs, runs):
        assert remaining.line(runs[0]) is None
    monkeypatch.setenv(remaining.VARIABLE, str(tmp_path / "gone"))
    assert remaining.line(runs[0]) is None


def test_a_run_is_planned_if_its_place_is_noted_or_nothing_is(tmp_path: Path) -> None:
    runs = folders(tmp_path, "waiting", "done", "waiting")
    elsewhere = tmp_path / "unpacked" / "runs" / Path(*place_of(runs[2]))
    assert remaining.planned(runs[0])
    with remaining.noted(tmp_path / "multirun", runs, [runs[0], elsewhere]):
        assert [remaining.planned(run) for run in runs] == [True, False, True]
        Path(os.environ[remaining.VARIABLE]).unlink()
        assert remaining.planned(runs[1])


def test_a_sweep_does_not_train_at_rates_that_came_after_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "choices.json"

    def choose(lr: float) -> None:
        key = search_file.Key("tiny_roberta", "wnli", "lora", "r2", "24 steps", "dir")
        search_file.write(file, [search_file.Search(key, (1,), {lr: (50.0,)})])
        search_file._read.cache_clear()  # a clock's tick may be longer than the time between two writes

    @contextlib.contextmanager
    def another_search(*given: Any) -> Iterator[None]:
        with noted(*given):
            choose(0.002)
            yield

    noted = remaining.noted
    choose(0.001)
    monkeypatch.setattr(remaining, "noted", another_search)
    words = small_words(tmp_path, "method=lora", "budget=r2", f"rates_from={file}")
    code, said, _ = typed("-m", *words, "seed=1,2")
    assert code == 1
    told = f"rates_from={file} has changed since the sweep was planned, and with it this run, now "
    assert said.count(f"waiting: {told}with lr=0.002: type the sweep again") == 2
    assert {study.look(folder).state for folder in directories(tmp_path)} == {"waiting"}
