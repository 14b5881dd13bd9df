"""The rules for settings, with their bounds and the messages that name them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import METHODS, attach_method, tiny
from dora.adapters.bottleneck import Bottleneck
from dora.adapters.lowrank import LowRankLinear
from dora.adapters.result import tensors_of
from dora.method import in_range
from dora.methods.base import RunInfo
from dora.methods.rules import fraction_or_steps, interval

# Shares of which 1 would leave nothing, and the start above a budget: (allowed, refused).
BOUNDS = {
    **dict.fromkeys(("dropout", "beta", "beta1", "beta2"), ((0.0, 0.99), (-0.01, 1.0, 1.5))),
    "start_factor": ((1.0, 3.0), (0.99,)),
}


@pytest.mark.parametrize(("value", "fits"), [(0, True), (0.5, True), (1, False), (-0.1, False)])
def test_a_range_takes_its_low_end_and_refuses_its_high_one(value: float, fits: bool) -> None:
    said = [f"method.x={value} must lie in [0, 1); usual is 0.5"]
    assert in_range("method.x", value, 0, 1, "usual is 0.5") == ([] if fits else said)
    assert in_range("method.x", math.nan, 0, math.inf, "usual is 0.5")


@pytest.mark.parametrize(
    ("value", "share", "steps"),
    [
        (0, True, False),  # allowed as a length, not as an interval
        (0.5, True, True),
        (1, False, True),  # as a length it may be meant as the whole run
        (1.2, False, False),
        (2, True, True),
        (2.5, False, False),
        (-0.1, False, False),
    ],
)
def test_a_length_is_a_fraction_or_steps_from_2_and_an_interval_from_1(
    value: float, share: bool, steps: bool
) -> None:
    assert bool(fraction_or_steps("method.x", value)) == (not share)
    assert bool(fraction_or_steps("method.x", value, zero=False)) == (not share or value == 0)
    assert bool(interval("method.x", value)) == (not steps)


@pytest.mark.parametrize("key", BOUNDS)
def test_a_setting_of_one_name_has_the_same_bounds_in_every_method(key: str) -> None:
    allowed, refused = BOUNDS[key]
    made = [settings for make, _ in METHODS.values() if hasattr(settings := make(), key)]
    for value in (*allowed, *refused):
        found = {bool(replace(settings, **{key: value}).problems(None)) for settings in made}
        assert found == {value in refused}, value


def having(key: str) -> list[str]:
    """Returns the methods that have this setting."""
    return [name for name, (make, _) in METHODS.items() if hasattr(make(), key)]


def attached(name: str, seed: int = 3, **changes: Any) -> nn.Module:
    """Returns a tiny model with a method on it."""
    model = tiny("roberta")
    attach_method(model, name, "r2", RunInfo(100, seed), **changes)
    return model


def layers_of(model: nn.Module) -> list[LowRankLinear]:
    """Returns the model's low-rank layers."""
    return [module for module in model.modules() if isinstance(module, LowRankLinear)]


@pytest.mark.parametrize("name", having("dropout"))
def test_the_dropout_of_a_setting_is_that_of_every_module_that_a_method_adds(name: str) -> None:
    model = attached(name, dropout=0.25)
    found = [layer.dropout for layer in layers_of(model)]
    found += [module.dropout.p for module in model.modules() if isinstance(module, Bottleneck)]
    assert set(found) == {0.25}


@pytest.mark.parametrize(
    ("key", "name"), [(key, name) for key in ("alpha", "scale") for name in having(key)]
)
def test_the_scale_of_every_layer_is_in_proportion_to_its_setting(key: str, name: str) -> None:
    found = [
        {layer.scale for layer in layers_of(attached(name, **{key: value}))} for value in (5, 15)
    ]
    [one], [three] = found
    assert three == pytest.approx(3 * one, rel=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_start_values_are_a_function_of_the_seed_alone(name: str) -> None:
    def start(seed: int, drawn_elsewhere: int) -> dict[str, Tensor]:
        model = tiny("roberta")
        torch.rand(drawn_elsewhere)
        method = attach_method(model, name, "r2", RunInfo(100, seed))
        return tensors_of(model, method.frozen())

    first, again, other = start(3, 0), start(3, 7), start(4, 0)
    assert all(torch.equal(p, again[n]) for n, p in first.items())
    # Biases and weights begin where the backbone has them, and CoRA's A at 0.
    drawn = any(not torch.equal(p, other[n]) for n, p in first.items())
    assert drawn == (name not in ("full", "bitfit", "cora"))


# As from in_range("method.batches", …, 1, total_steps - 1, …) in a run of two steps.
@pytest.mark.parametrize("high", [1, 0])
def test_an_empty_range_is_told_apart_from_a_wrong_value(high: int) -> None:
    said = (
        f"method.batches=1: no value is allowed in this run, as [1, {high}) is empty; train longer"
    )
    assert in_range("method.batches", 1, 1, high, "train longer") == [said]
