"""The order of batches: a pure function of (seed, epoch), so that nothing about it needs saving."""

from __future__ import annotations

import numpy as np

# How far chance moves a row from its place by length, in `order`. A lower value leaves less padding,
# but a row shares its batch more often with rows of its last batch: with 0.5 there are 1.8 times as
# many of them as in random order, with 0.25 3 times, with 0.1 6.5 times (results/padding.md).
MIX = 0.5


def order(
    seed: int, epoch: int, lengths: np.ndarray, batch_size: int, batching: str = "length"
) -> list[np.ndarray]:
    """Returns the batches of an epoch, each an array of row numbers; every row occurs once.

    "random" cuts shuffled rows into batches as they come, so the short batch is the last. "length"
    sorts the rows by √u + MIX·x first, and shuffles the batches. u in [0, 1) is a row's place among
    all rows, longest first, and x is drawn from [0, 1) anew in each epoch. So the rows of a
    batch are similar in length, longest first, and change from epoch to epoch: a row shares its
    batch with at most twice as many rows of its last batch as under "random", whatever the lengths,
    the number of rows and the size of a batch. The number of processes has no influence, since they
    share each batch.
    """
    # A generator of its own for each epoch: a resumed run needs no state of an earlier one.
    random, n = np.random.default_rng([seed, epoch]), len(lengths)
    rows = random.permutation(n)
    if batching == "random":
        return _cut(rows, batch_size)
    # Stable: rows of equal length stay shuffled, and have one order with every version of NumPy.
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    # Places rather than lengths, because the share of rows that meet again is then equal on every
    # data set.
    # The root parts the longest rows most, where lengths differ most: on GLUE that leaves a tenth
    # less padding than u itself at an equal share. A logarithm saves as much, but its last bits
    # depend on the machine; those of a root do not.
    place = np.sqrt(np.arange(n) / n) + MIX * random.random(n)
    # Within a batch by length again, so that its micro-batches hold like rows: in 4 parts a batch
    # of 32 has a quarter of the padding (results/padding.md).
    batches = [rows[np.sort(batch)] for batch in _cut(np.argsort(place, kind="stable"), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def by_length(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Returns batches of row numbers for evaluation: all rows, longest first.

    If memory is too small, the first batch shows it.
    """
    return _cut(np.argsort(-lengths, kind="stable"), batch_size)
