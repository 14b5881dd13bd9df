"""LoRA (Hu et al., 2021, arXiv 2106.09685): fixed ranks, y = W0 x + (alpha / r) B A x."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from dora.adapters import lowrank
from dora.adapters.budget import Budget, Matrix, Plan, equal_plan
from dora.methods import base
from dora.methods.base import RunInfo
from dora.methods.rules import in_range


@dataclass
class Settings(base.Settings):
    """The settings in conf/method/lora.yaml."""

    alpha: float
    dropout: float

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range."""
        return [
            *in_range("method.alpha", self.alpha, 1e-6, math.inf, "the paper's code uses 16"),
            *in_range("method.dropout", self.dropout, 0, 1, "the paper's GLUE runs use 0"),
        ]


class LoRA(base.Method):
    """Draws A and leaves B at zero, so that training starts at the backbone itself."""

    title = "LoRA"
    paper = "Hu et al., LoRA, ICLR 2022, arXiv 2106.09685"
    settings_type = Settings

    def __init__(self, settings: Settings, model: nn.Module, plan: Plan, run: RunInfo) -> None:
        # One scale for all matrices, alpha over the average rank. A small budget leaves some
        # matrices without a component, and the average may fall below 1; the matrices that have
        # components have rank 1 then.
        average_rank = max(1.0, sum(plan.start) / len(plan.start))
        scale = settings.alpha / average_rank
        self.layers = lowrank.adapt(
            model, plan.matrices, plan.start, scale, settings.dropout, gated=False
        )
        generator = run.generator("start")
        for layer in self.layers.values():
            if layer.rank:  # kaiming_uniform_ warns about empty tensors
                # a = √5 as in microsoft/LoRA: uniform on ±1/√d_in.
                nn.init.kaiming_uniform_(layer.A, a=math.sqrt(5), generator=generator)

    @classmethod
    def plan(cls, settings: Settings, budget: Budget, matrices: tuple[Matrix, ...]) -> Plan:
        """Gives every matrix one rank, and the rest of a parameter budget in layer order."""
        return equal_plan(budget, matrices)
