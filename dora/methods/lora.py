"""LoRA (Hu et al., 2021, arXiv 2106.09685): fixed ranks, y = W0 x + (alpha / r) B A x.

Three later papers are settings of it, and combine:

* `scaling=rslora` (Kalajdzievski, 2023, arXiv 2312.03732): the scale is alpha / √r.
* `lr_ratio` (LoRA+; Hayou et al., ICML 2024, arXiv 2402.12354): B's learning rate over A's.
* `init=pissa` (Meng et al., NeurIPS 2024, arXiv 2404.02948): A and B start at the weight's first
  r singular components, A0 and B0, and the frozen part is the rest, W0 − s B0 A0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dora.adapters import lowrank
from dora.adapters.budget import Budget, Matrix
from dora.adapters.lowrank import LowRankLinear
from dora.adapters.plan import Plan, equal_plan
from dora.adapters.residual import ResidualLinear
from dora.adapters.singular import first_components
from dora.methods import base
from dora.methods.base import ParameterGroup, RunInfo
from dora.methods.rules import in_range, one_of


@dataclass
class PlainSettings(base.Settings):
    """The settings that LoRA shares with methods that train its factors in another way."""

    alpha: float
    dropout: float

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range."""
        return [
            *in_range("method.alpha", self.alpha, 1e-6, math.inf, "LoRA's code uses 16"),
            *in_range("method.dropout", self.dropout, 0, 1, "LoRA's GLUE runs use 0"),
        ]


@dataclass
class Settings(PlainSettings):
    """The settings in conf/method/lora.yaml."""

    scaling: str
    lr_ratio: float
    init: str
    deal: str

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range."""
        return [
            *super().problems(total_steps),
            *one_of("method.scaling", self.scaling, ("standard", "rslora"), "usual is standard"),
            *in_range("method.lr_ratio", self.lr_ratio, 1e-6, math.inf, "LoRA+ uses 1 and above"),
            *one_of("method.init", self.init, ("kaiming", "pissa"), "usual is kaiming"),
            *one_of("method.deal", self.deal, ("spread", "first"), "usual is spread"),
        ]

    def unused(self, plan: Plan | None) -> dict[str, str]:
        """Returns each setting that has no effect in a run with this plan, with the reason."""
        whole = plan is not None and all(plan.start)
        return {"deal": "the budget has a component for every matrix"} if whole else {}


class PlainLoRA(base.Method):
    """Draws A and leaves B at zero, so that training starts at the backbone itself.

    The base of LoRA, and of methods that differ from it in how the factors are trained.
    """

    def __init__(self, settings: Any, model: nn.Module, plan: Plan, run: RunInfo) -> None:
        self.settings = settings
        self.layers = lowrank.adapt(
            model,
            plan.matrices,
            plan.start,
            self._scale(average_rank(plan.start)),
            settings.dropout,
            gated=False,
            layer_type=self._layer_type(),
        )
        self._draw(run.generator("start"))

    @classmethod
    def plan(
        cls, settings: Any, budget: Budget, matrices: tuple[Matrix, ...], run: RunInfo
    ) -> Plan:
        """Gives every matrix one rank, and the rest of a parameter budget one by one."""
        return equal_plan(budget, matrices)

    def _scale(self, rank: float) -> float:
        """Returns s, one for all matrices, from their average rank."""
        return float(self.settings.alpha / rank)

    def _layer_type(self) -> type[LowRankLinear]:
        return LowRankLinear

    def _draw(self, generator: torch.Generator) -> None:
        """Sets the start values; the layers hold zeros."""
        for layer in self.layers.values():
            layer.A.data = kaiming(layer.A, generator)


class LoRA(PlainLoRA):
    """Trains A and B from LoRA's start, or from PiSSA's.

    PiSSA starts at the backbone too, up to the rounding of the singular components.
    """

    title = "LoRA"
    recordable = True
    paper = "Hu et al., LoRA, ICLR 2022, arXiv 2106.09685"
    settings_type = Settings
    layout = ("init",)  # PiSSA's tensors hold the start values too

    @classmethod
    def plan(
        cls, settings: Settings, budget: Budget, matrices: tuple[Matrix, ...], run: RunInfo
    ) -> Plan:
        """Gives every matrix one rank, and the rest of a parameter budget one by one."""
        if settings.init == "pissa":
            # Against the backbone as it was loaded, a component is stored with its start values.
            matrices = tuple(replace(m, component_cost=2 * m.cost) for m in matrices)
        return equal_plan(budget, matrices, settings.deal == "spread")

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Gives B its own rate (LoRA+), and PiSSA's factors no weight decay.

        Decay would pull s B A, a part of the weight itself, to 0.
        """
        decay = 0.0 if self.settings.init == "pissa" else None
        if self.settings.lr_ratio == 1 and decay is None:
            return ()
        layers = self.layers.values()
        return (
            ParameterGroup([layer.A for layer in layers], weight_decay=decay),
            # On B alone. PEFT's LoRA+ gives every vector B's rate too, the head's bias among them.
            ParameterGroup([layer.B for layer in layers], self.settings.lr_ratio, decay),
        )

    def _scale(self, rank: float) -> float:
        # PEFT scales each matrix by its own rank, which is the average where ranks are equal.
        if self.settings.scaling == "rslora":
            return float(self.settings.alpha / math.sqrt(rank))
        return super()._scale(rank)

    def _layer_type(self) -> type[LowRankLinear]:
        return ResidualLinear if self.settings.init == "pissa" else LowRankLinear

    def _draw(self, generator: torch.Generator) -> None:
        if self.settings.init != "pissa":
            super()._draw(generator)
        for layer in self.layers.values():
            if isinstance(layer, ResidualLinear):
                begin_as_pissa(layer)


def begin_as_pissa(layer: ResidualLinear) -> None:
    """Begins the layer at the first r singular components of the base's weight over s.

    With W0 = U diag(σ) Vᵀ: A0 = diag(√(σ/s)) Vᵀ and B0 = U diag(√(σ/s)) (the paper's start;
    dividing by s is PEFT's).
    """
    U, sigma, Vt = first_components(layer.unpacked(), layer.rank)
    root = (sigma / layer.scale).sqrt()
    layer.start_at(root.unsqueeze(1) * Vt, U * root)


def kaiming(like: Tensor, generator: torch.Generator) -> Tensor:
    """Returns start values of A in the shape of `like`, (r, d_in), uniform on ±1/√d_in."""
    A = torch.empty_like(like)
    # a = √5 as in microsoft/LoRA. PyTorch warns about an empty tensor.
    return nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator) if len(A) else A


def average_rank(ranks: Sequence[int]) -> float:
    """Returns the mean of these ranks, at least 1, by which one scale serves all matrices.

    A small budget leaves some matrices without a component, and the mean may fall below 1; the
    matrices that have components have rank 1 then.
    """
    return max(1.0, sum(ranks) / len(ranks))
