"""Runs killed in a step, an evaluation, a checkpoint, an allocation or the export lose nothing."""

from __future__ import annotations

import collections
import functools
import os
import signal
from pathlib import Path

import pytest
from kill_groups import KINDS, Group, begin, differences, kill_groups, leave_alone
from kill_runs import ALLOCATING, PLACES, schedule, study

from conftest import METHODS
from runs import forkserver

# One of each kind: what a run leaves, what changes while it trains. A sweep of all methods would
# take three times as long, and the forty kills reach all of them.
SWEPT = ("full", "lora", "dora", "bitfit", "houlsby", "chain", "lora_fair")


# One kill in each place: half a minute. DoRA allocates, so that it has all places.
@pytest.mark.slow
@pytest.mark.parametrize(("method", "seed"), [("dora", 11)])
def test_a_kill_in_every_place_leaves_a_run_that_ends_as_one_left_alone(
    method: str, seed: int, tmp_path: Path
) -> None:
    assert study(len(PLACES), seed, [method], tmp_path, print) == []


@pytest.mark.slow
def test_forty_kills_over_all_methods_leave_runs_that_end_as_ones_left_alone(
    tmp_path: Path,
) -> None:
    assert study(40, 1, list(METHODS), tmp_path, print) == []


def test_forty_kills_are_eight_in_every_place_and_reach_every_method() -> None:
    planned = schedule(40, list(METHODS))
    assert set(collections.Counter(place for _, place in planned).values()) == {8}  # 5 places
    assert {method for method, _ in planned} == set(METHODS)
    assert {m for m, place in planned if place == "allocation"} == set(ALLOCATING)
    # Long enough, every method is killed in every place that it has.
    everything = {(m, p) for m in METHODS for p in PLACES if p != "allocation" or m in ALLOCATING}
    assert set(schedule(len(METHODS) * len(PLACES), list(METHODS))) == everything


# Kills in places come between two lines of Python; these also come within a write or a product.
@pytest.mark.slow  # 12 s; tests/kill_runs.py makes as many kills as one likes
def test_kills_at_random_times_leave_runs_that_end_as_ones_left_alone(tmp_path: Path) -> None:
    assert kill_groups("random", 2, 3, ["dora"], tmp_path, print) == []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "methods"), [("joblib", list(SWEPT)), ("torchrun", ["dora"])])
def test_a_killed_worker_launcher_or_both_leave_no_process_and_runs_that_end_as_ones_left_alone(
    kind: str, methods: list[str], tmp_path: Path
) -> None:
    # Every victim in both phases.
    assert kill_groups(kind, 2 * len(KINDS[kind]), 1, methods, tmp_path, print) == []


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gives the results of a sweep that was left alone."""
    results = tmp_path_factory.mktemp("sweep") / "alone"
    leave_alone(forkserver(), Group("joblib", ",".join(SWEPT)), results)
    return results


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [2, 4])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2])
def test_a_signal_to_a_sweep_stops_its_workers_and_the_same_sweep_ends_as_one_left_alone(
    number: signal.Signals, jobs: int, alone: Path, tmp_path: Path
) -> None:
    begun = functools.partial(begin, forkserver(), Group("joblib", ",".join(SWEPT), jobs))
    started = begun(tmp_path)
    # To the launcher alone, as a cluster does; it must pass the signal on to its workers.
    started.wait_for("training")
    os.kill(started.process.pid, number)
    assert started.left() == []
    assert started.process.exitcode == 75  # stopped, to be resumed
    assert differences(begun, alone, tmp_path) == []
