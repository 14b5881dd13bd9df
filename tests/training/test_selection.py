"""Which evaluation is the best one, and when a run without a better one ends."""

from __future__ import annotations

import json

import pytest
import torch

from conftest import settings_of
from dora.adapters.pruning import steps_of
from dora.training.selection import Selection, counts_from


@pytest.mark.parametrize(
    ("total", "final_at", "step"),
    [(24, 0, 14), (25, 0, 15), (24, 14, 14), (24, 16, 16), (3, 0, 3), (1, 0, 1), (8, 8, 8)],
)
def test_evaluations_count_from_two_steps_past_half_or_once_ranks_are_final(
    total: int, final_at: int, step: int
) -> None:
    assert counts_from(total, final_at) == step


@pytest.mark.parametrize("total", range(20, 60))
def test_adaloras_last_allocation_by_default_is_where_evaluations_count_for_all(total: int) -> None:
    last = total - steps_of(settings_of("adalora").final_warmup, total) + 2
    assert counts_from(total, 0) == counts_from(total, last) == last


def offered(*scores: float | None, patience: int | None = None) -> Selection:
    """Returns the selection after evaluations in steps 9, 10, …, of which those from 10 count."""
    found = Selection(10, patience)
    for step, score in enumerate(scores, 9):
        found.offer(step, score, {"accuracy": score}, {}, {"w": torch.tensor(float(step))})
    return found


@pytest.mark.parametrize(
    ("scores", "best", "worse"),
    [
        ((0.9, 0.5, 0.7, 0.6), 11, 1),  # the highest comes from before evaluations count
        ((0.9, 0.5, 0.5, 0.5), 10, 2),  # the first of equal ones
        ((0.9, None, 0.0), 11, 0),  # any score beats none
        ((0.9, -0.1, None, None), 10, 2),
        ((0.9, None, None), 10, 1),
    ],
)
def test_the_first_highest_score_that_counts_is_best_and_keeps_its_weights(
    scores: tuple[float | None, ...], best: int, worse: int
) -> None:
    found = offered(*scores)
    assert found.best is not None
    assert (found.best["step"], found.best["score"]) == (best, scores[best - 9])
    assert found.tensors["w"].item() == best
    assert (found.worse, found.evaluations) == (worse, len(scores) - 1)


def test_patience_ends_after_so_many_evaluations_without_a_better_one() -> None:
    assert not offered(0.9, 0.5, 0.5, patience=2).out_of_patience
    assert offered(0.9, 0.5, 0.5, 0.4, patience=2).out_of_patience
    assert not offered(0.9, 0.5, 0.4, 0.6, 0.6, patience=2).out_of_patience
    assert not offered(0.9, *[0.5] * 50).out_of_patience


def test_a_selection_taken_up_goes_on_counting_where_it_stopped() -> None:
    whole, stopped = (offered(0.9, 0.5, 0.5, *more, patience=2) for more in ((0.4,), ()))
    found = Selection(10, 2)
    found.take_up(json.loads(json.dumps(stopped.label())), stopped.tensors)
    assert not found.out_of_patience
    found.offer(12, 0.4, {}, {}, {})
    assert found.out_of_patience
    assert found.label() == whole.label()
    assert found.tensors["w"].item() == 10


def test_the_best_weights_are_copies_that_training_does_not_move() -> None:
    found, weight = Selection(1, None), torch.zeros(2)
    found.offer(1, 0.5, {}, {}, {"w": weight})
    weight.fill_(1)
    assert found.tensors["w"].tolist() == [0, 0]
