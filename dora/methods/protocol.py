"""What the training loop knows of a method, and nothing more.

A method *decides* which components live; the loop *applies* the decision to weights and optimizer. A
method's file holds a `Settings` dataclass (its YAML keys and defaults) and one class with this shape;
`dora/methods/lora.py` is the shortest example, CONTRIBUTING.md lists the three steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from dora.adapters import lowrank
from dora.adapters.budget import Budget, Matrix, Plan


@dataclass(frozen=True)
class Allocation:
    """Which components live from now on.

    `keep`: (r,) bool for each layer, in the order of `Method.layers`. `remove`: take the others out of
    weights and moments for good, rather than mask them. `new`: False where a final set is only applied
    again, which is not worth a line in ranks.jsonl.
    """

    keep: Sequence[torch.Tensor]
    remove: bool = False
    new: bool = True


class Settings(Protocol):
    """A method's own settings: a dataclass whose fields are the keys `method.<field>`."""

    base_lr: float

    def problems(self, total_steps: int | None) -> list[str]:
        """Every value out of range, each with rule and way out; with `total_steps`, also a run too short."""
        ...


class Method(Protocol):
    """One method attached to one backbone.

    `layers`: its low-rank layers by matrix name, empty for full fine-tuning. `settled`: the step (counted
    from 1) after which the set of components no longer changes, 0 where it never does.
    """

    layers: dict[str, lowrank.LowRankLinear]
    settled: int

    def __init__(
        self,
        settings: Settings,
        model: nn.Module,
        plan: Plan | None,
        total_steps: int,
        generator: torch.Generator,
    ) -> None: ...

    @staticmethod
    def plan(settings: Settings, budget: Budget, matrices: tuple[Matrix, ...]) -> Plan | None:
        """Start ranks and end under this budget, None for full; raises ValueError if the budget does not fit."""
        ...

    def penalty(self, step: int) -> torch.Tensor | None:
        """The method's term in the loss of training step `step` (from 1); None or a scalar."""
        ...

    def after_step(self, step: int) -> Allocation | None:
        """Called after the optimizer's step `step`, gradients (as clipped) still in place."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint needs beyond weights and moments."""
        ...

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Takes up a state() again, on the device where the layers are now."""
        ...


class Fixed:
    """What a method inherits that decides nothing: no penalty, no allocation, no state."""

    settled = 0

    def penalty(self, step: int) -> torch.Tensor | None:
        """None."""
        return None

    def after_step(self, step: int) -> Allocation | None:
        """None."""
        return None

    def state(self) -> dict[str, torch.Tensor]:
        """Empty."""
        return {}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Nothing to take up."""


def fraction_or_steps(name: str, value: float, zero: bool = True) -> list[str]:
    """The rule for a setting that is a fraction of the run below 1 and whole steps from 1."""
    fine = (0 <= value if zero else 0 < value) and (value < 1 or float(value).is_integer())
    low = "at least 0" if zero else "above 0"
    return (
        []
        if fine
        else [f"{name}={value} must be {low}: a fraction of the run below 1, or whole steps"]
    )


def in_range(name: str, value: float, low: float, high: float, usual: str) -> list[str]:
    """A message if `value` is outside [low, high)."""
    return (
        [] if low <= value < high else [f"{name}={value} must lie in [{low:g}, {high:g}); {usual}"]
    )
