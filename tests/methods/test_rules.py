"""The rules for settings, with their bounds and the messages that name them."""

from __future__ import annotations

import math

import pytest

from dora.method import in_range


@pytest.mark.parametrize(("value", "fits"), [(0, True), (0.5, True), (1, False), (-0.1, False)])
def test_a_range_takes_its_low_end_and_refuses_its_high_one(value: float, fits: bool) -> None:
    said = [f"method.x={value} must lie in [0, 1); usual is 0.5"]
    assert in_range("method.x", value, 0, 1, "usual is 0.5") == ([] if fits else said)
    assert in_range("method.x", math.nan, 0, math.inf, "usual is 0.5")


# As from in_range("method.batches", …, 1, total_steps - 1, …) in a run of two steps.
@pytest.mark.parametrize("high", [1, 0])
def test_an_empty_range_is_told_apart_from_a_wrong_value(high: int) -> None:
    said = (
        f"method.batches=1: no value is allowed in this run, as [1, {high}) is empty; train longer"
    )
    assert in_range("method.batches", 1, 1, high, "train longer") == [said]
