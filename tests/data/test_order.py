"""The order of batches takes every row once, depends on seed and epoch alone, and mixes rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dora.data.order import by_length, order
from runs import load_script

script = load_script("padding")


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 500),
    st.integers(1, 40),
    st.integers(0, 5),
    st.integers(0, 3),
    st.sampled_from(["length", "random"]),
)
def test_an_epoch_takes_every_row_once_in_batches_of_the_given_size(
    n: int, size: int, seed: int, epoch: int, batching: str
) -> None:
    lengths = np.random.default_rng(n).integers(3, 60, n)
    batches = order(seed, epoch, lengths, size, batching)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert len(batches) == -(-n // size)
    assert sorted(len(b) for b in batches)[1:] == [size] * (len(batches) - 1)


def test_the_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    lengths = np.arange(200) % 17 + 3
    same = [np.concatenate(order(1, 0, lengths, 8)).tolist() for _ in range(2)]
    assert same[0] == same[1]
    # No epoch of a seed is another epoch of another seed.
    every = {tuple(np.concatenate(order(s, e, lengths, 8))) for s in range(4) for e in range(4)}
    assert len(every) == 16


def lengths_like_glue(rows: int) -> np.ndarray:
    """Returns (rows,) numbers of tokens, skewed and cut at 128 as GLUE's are."""
    drawn = np.random.default_rng(rows).lognormal(3.5, 0.6, rows)
    return np.minimum(drawn, 125).astype(int) + 3


def test_batches_by_length_leave_about_half_the_padding_of_random_ones() -> None:
    lengths = lengths_like_glue(4_000)

    def padding(batching: str) -> float:
        return script.padding(lengths, order(1, 0, lengths, 32, batching))

    assert padding("random") > 0.5
    assert padding("length") < 0.6 * padding("random")


def test_micro_batches_of_a_batch_by_length_hold_like_rows() -> None:
    lengths = lengths_like_glue(4_000)
    batches = order(1, 0, lengths, 32)
    assert all((np.diff(lengths[rows]) <= 0).all() for rows in batches)
    # As a step cuts them with grad_accum=4.
    parts = [part for rows in batches for part in np.array_split(rows, 4)]
    assert script.padding(lengths, parts) < 0.3 * script.padding(lengths, batches)


def test_an_evaluation_begins_with_the_longest_rows_and_keeps_equal_ones_in_order() -> None:
    batches = by_length(np.array([2, 5, 3, 5, 1]), 2)
    assert [rows.tolist() for rows in batches] == [[1, 3], [2, 0], [4]]


# The sizes of WNLI, RTE, MRPC, CoLA and SST-2.
@pytest.mark.parametrize("rows", [635, 2_490, 3_668, 8_551, 67_349])
@pytest.mark.parametrize("size", [16, 32, 64, 128, 256])
def test_a_row_meets_at_most_twice_the_old_partners_that_random_order_gives(
    rows: int, size: int
) -> None:
    by_chance = (size - 1) / (rows - 1)
    # No two lengths equal is the worst case: equal ones are in random order.
    for lengths in (lengths_like_glue(rows), np.random.default_rng(0).permutation(rows)):
        epochs = [order(1, epoch, lengths, size) for epoch in range(6)]
        assert script.old_partners(epochs) <= 2 * by_chance
    shuffled = [order(1, epoch, lengths, size, "random") for epoch in range(6)]
    # Few rows meet again: the more rows, the fewer batches' chances are averaged.
    assert script.old_partners(shuffled) == pytest.approx(by_chance, rel=0.15)


def test_old_partners_are_those_of_the_epoch_before() -> None:
    first = [np.array([0, 1, 2]), np.array([3, 4, 5])]
    second = [np.array([0, 1, 3]), np.array([2, 4]), np.array([5])]
    # Rows 0 and 1 keep one of two partners, 3 none of two, 2 and 4 none of one; 5 has none.
    assert script.old_partners([first, second]) == pytest.approx((0.5 + 0.5 + 0 + 0 + 0) / 5)


def test_the_variance_of_mean_labels_is_one_by_chance_and_more_where_labels_follow_lengths() -> (
    None
):
    lengths = lengths_like_glue(4_000)
    labels = np.random.default_rng(1).integers(0, 2, 4_000)
    shuffled = order(1, 0, lengths, 32, "random")
    assert script.label_variance(labels, shuffled) == pytest.approx(1, abs=0.3)
    # Two batches of two: means 0 and 1 around 0.5. By chance 0.25 / 2 · (4 - 2) / (4 - 1) = 1/12.
    apart = [np.array([0, 1]), np.array([2, 3])]
    assert script.label_variance(np.array([0, 0, 1, 1]), apart) == pytest.approx(0.25 * 12)


def test_padding_counts_every_row_at_its_batch_s_longest() -> None:
    lengths = np.array([1, 2, 3, 4])
    assert script.padding(lengths, [np.array([0, 1]), np.array([2, 3])]) == pytest.approx(
        1 - 10 / 12
    )
    assert script.padding(
        lengths, [np.array([0, 3]), np.array([], int), np.array([1, 2])]
    ) == pytest.approx(1 - 10 / 14)
