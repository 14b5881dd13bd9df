"""LoRA (Hu et al., 2021, arXiv 2106.09685): fixed components, y = W0 x + (alpha / r) B A x."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from dora.adapters import lowrank
from dora.adapters.budget import Budget, Matrix, Plan, equal_ranks
from dora.methods.protocol import Fixed, in_range


@dataclass
class Settings:
    """`base_lr`: learning rate for models of base size. `alpha`: s = alpha / (average rank), for all matrices."""

    base_lr: float = 4e-4
    alpha: float = 16.0
    dropout: float = 0.0

    def problems(self, total_steps: int | None) -> list[str]:
        """Every value out of range."""
        return [
            *in_range("method.alpha", self.alpha, 1e-6, math.inf, "the paper's code uses 16"),
            *in_range("method.dropout", self.dropout, 0, 1, "the paper's GLUE runs use 0"),
        ]


class LoRA(Fixed):
    """A random, B zero: training starts at the backbone itself."""

    def __init__(
        self,
        settings: Settings,
        model: nn.Module,
        plan: Plan,
        total_steps: int,
        generator: torch.Generator,
    ) -> None:
        # Below an average of 1, where some matrices have none, a matrix that has one is still of rank 1.
        average_rank = max(1.0, sum(plan.start) / len(plan.start))
        scale = settings.alpha / average_rank
        self.layers = lowrank.adapt(
            model, plan.matrices, plan.start, scale, settings.dropout, gated=False
        )
        for layer in self.layers.values():
            if layer.rank:  # a small budget leaves some matrices without a component
                nn.init.kaiming_uniform_(
                    layer.A, a=math.sqrt(5), generator=generator
                )  # microsoft/LoRA's choice

    @staticmethod
    def plan(settings: Settings, budget: Budget, matrices: tuple[Matrix, ...]) -> Plan:
        """The same rank everywhere, what is left of a parameter budget dealt in layer order."""
        if problem := budget.problem(matrices):
            raise ValueError(problem)
        ranks = equal_ranks(budget, matrices)
        return Plan(budget, matrices, ranks, ranks, budget.total(matrices))
