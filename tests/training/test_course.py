"""The course of a run on all rows; a federated one's is in tests/preparing/test_federation.py."""

from __future__ import annotations

from conftest import config_of, tokens
from dora.data.order import order
from dora.methods.base import Method
from dora.training.course import Course


def test_a_run_takes_every_batch_of_an_epoch_before_it_begins_the_next() -> None:
    lengths = tokens(43).lengths
    config = config_of(Method, seed=3, batch_size=8)
    course = Course(config, lengths, 12)
    assert course.steps_an_epoch == 6  # five batches of 8 rows, and one of 3
    epochs = [order(3, epoch, lengths, 8, config.batching) for epoch in (0, 1)]
    want = [rows.tolist() for epoch in epochs for rows in epoch]
    assert [course.rows(step).tolist() for step in range(1, 13)] == want
