"""The time that a study will still take."""

from __future__ import annotations

from typing import Any

import pytest

from dora.records.estimate import Left, in_words, left
from dora.records.study import Seen

TO_DO = ("missing", "stopped", "waiting")


def seen(state: str, task: str = "rte", method: str = "lora", seed: int = 1, **about: Any) -> Seen:
    return Seen(("dir", task, "minilm", method, "r8", "k", f"s{seed}"), state, **about)


def test_a_run_takes_as_long_as_those_most_like_it() -> None:
    done = [
        seen("done", seconds=100.0),
        seen("done", seed=2, seconds=140.0),
        seen("done", method="dora", seconds=200.0),
        seen("done", task="sst2", seconds=30.0),
    ]
    # Its own row's mean.
    assert left([*done, seen("missing", seed=3)], TO_DO) == Left(120.0, 1, 0, 0)
    # No run of the method: those of the task. No run of the task: those of the model.
    assert left([*done, seen("waiting", method="full")], TO_DO) == Left(440 / 3, 1, 0, 0)
    assert left([*done, seen("waiting", task="cola")], TO_DO) == Left(117.5, 1, 0, 0)


def test_a_run_of_another_length_takes_time_in_proportion_to_its_steps() -> None:
    done = seen("done", seconds=100.0, total_steps=600)
    longer = seen("waiting", total_steps=1800)
    other = Seen((*longer.place[:5], "other", "s2"), "waiting", total_steps=1800)
    assert left([done, other], TO_DO) == Left(300.0, 1, 0, 0)
    # Where epochs decide the number of steps, only a run with an equal key has as many.
    epochs = [Seen((*longer.place[:5], "e", f"s{s}"), "waiting") for s in (2, 3)]
    trained = Seen((*longer.place[:5], "e", "s1"), "done", seconds=900.0, total_steps=5000)
    assert left([done, trained, *epochs], TO_DO) == Left(1800.0, 2, 0, 0)


def test_what_a_run_has_done_counts() -> None:
    done = seen("done", seconds=100.0)
    stopped = seen("stopped", seed=2, step=30, total_steps=40)
    assert left([done, stopped], TO_DO) == Left(25.0, 1, 0, 0)
    # A running one is judged by its own speed.
    running = seen("running", seed=3, step=10, total_steps=40, left_s=7.0)
    assert left([done, stopped, running], TO_DO) == Left(32.0, 2, 1, 0)


@pytest.mark.parametrize("runs", [[], [seen("done", seconds=5.0)], [seen("missing")]])
def test_nothing_is_said_where_nothing_is_left_or_known(runs: list[Seen]) -> None:
    assert left(runs, TO_DO) is None


def test_runs_unlike_any_that_is_done_are_counted_apart() -> None:
    other = Seen(("dir", "rte", "roberta_base", "lora", "r8", "k", "s1"), "missing")
    runs = [seen("done", seconds=5.0), other]
    assert left(runs, TO_DO) is None
    found = left([*runs, seen("waiting", seed=2)], TO_DO)
    assert found == Left(5.0, 2, 0, 1)
    assert in_words(found) == (
        "about 5 s of training, 2 runs; 1 of them unlike any that is done, and not counted"
    )


def test_runs_at_once_share_the_time() -> None:
    assert in_words(Left(7200.0, 9, 4, 0)) == (
        "about 2 h 00 min of training, 9 runs; 30 min with 4 at once, as now"
    )
