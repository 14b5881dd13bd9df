"""Rows dealt to clients: the published case, the law of the draw, and that nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest

from dora.data.partition import classes_of, partition


def test_the_published_case() -> None:
    # numpy 2.4.6, labels 0 x 6 and 1 x 4, three clients, alpha 0.5, seed 0.
    labels = np.array([0] * 6 + [1] * 4)
    found = [part.tolist() for part in partition(labels, 3, "dirichlet", 0.5, 0)]
    assert found == [[8, 9], [5, 6], [0, 1, 2, 3, 4, 7]]


@pytest.mark.parametrize("kind", ["dirichlet", "iid"])
def test_every_row_has_one_client(kind: str) -> None:
    random = np.random.default_rng(0)
    for seed in range(100):
        rows, clients = int(random.integers(1, 80)), int(random.integers(1, 12))
        labels = random.integers(0, 3, rows)
        parts = partition(labels, clients, kind, 0.3, seed)
        assert len(parts) == clients
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(rows))
        assert all(np.array_equal(part, np.sort(part)) for part in parts)
        again = partition(labels, clients, kind, 0.3, seed)
        assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_equal_parts_differ_by_one_row_at_most() -> None:
    sizes = [len(part) for part in partition(np.zeros(50, dtype=int), 7, "iid", 0.5, 1)]
    assert max(sizes) - min(sizes) <= 1


def of_one_class(labels: np.ndarray, clients: int, alpha: float) -> float:
    """Returns how many clients have rows of a single class, on average over 200 seeds."""
    alone = [
        len(part) > 0 and len(np.unique(labels[part])) == 1
        for seed in range(200)
        for part in partition(labels, clients, "dirichlet", alpha, seed)
    ]
    return sum(alone) / 200


def test_skew_is_that_of_the_law_without_redraws() -> None:
    # RTE's training set: 1,249 and 1,241 rows. At ten clients and alpha 0.5 0.92 of them have a
    # single class on average, at three clients at most 0.08 (the specification's own figures).
    rte = np.array([0] * 1249 + [1] * 1241)
    assert of_one_class(rte, 10, 0.5) == pytest.approx(0.92, abs=0.25)
    assert of_one_class(rte, 3, 0.5) < 0.15
    # A small alpha skews: some seeds leave a client without any row, and none is redrawn.
    sizes = [min(map(len, partition(rte, 10, "dirichlet", 0.1, s))) for s in range(50)]
    assert sum(size < 32 for size in sizes) >= 45


def test_shares_are_dirichlets() -> None:
    labels = np.zeros(1000, dtype=int)
    first = [len(partition(labels, 4, "dirichlet", 2.0, seed)[0]) / 1000 for seed in range(400)]
    # Beta(2, 6): mean 1/4, variance 2 · 6 / (8² · 9).
    assert np.mean(first) == pytest.approx(0.25, abs=0.02)
    assert np.var(first) == pytest.approx(12 / 576, rel=0.2)


def test_a_regressions_classes_are_five_bins() -> None:
    labels = np.array([0.0, 0.9, 1.0, 3.99, 4.0, 5.0])
    assert classes_of(labels).tolist() == [0, 0, 1, 3, 4, 4]
