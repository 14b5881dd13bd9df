"""Full fine-tuning: every weight is trained. It has no budget and no components."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from dora.adapters import lowrank
from dora.adapters.budget import Budget, Matrix, Plan
from dora.methods.protocol import Fixed


@dataclass
class Settings:
    """`base_lr`: learning rate for models of base size."""

    base_lr: float = 2e-5

    def problems(self, total_steps: int | None) -> list[str]:
        """Nothing of its own to get wrong."""
        return []


class Full(Fixed):
    """Trains the whole backbone; the loop finds nothing to allocate."""

    def __init__(
        self,
        settings: Settings,
        model: nn.Module,
        plan: Plan | None,
        total_steps: int,
        generator: torch.Generator,
    ) -> None:
        self.layers: dict[str, lowrank.LowRankLinear] = {}
        model.requires_grad_(True)

    @staticmethod
    def plan(settings: Settings, budget: Budget, matrices: tuple[Matrix, ...]) -> Plan | None:
        """No plan: the budget does not apply."""
        return None
