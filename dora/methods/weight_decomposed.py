"""Weight-decomposed DoRA (Liu et al., ICML 2024, arXiv 2402.09353): PEFT's `use_dora`.

    y = W0 (x − D x) + m ∘ (V D x) / ‖V‖ + b0        V = W0 + s B A        ‖V‖, m: (d_out,)

‖V‖ holds the norms of V's rows, one for each output (the paper's columns: it writes y = x W). The
update turns the rows, and m, trained too, is their length. At the start m = ‖W0‖, so that training
begins at the backbone. ‖V‖ is taken for a constant in backward (section 4.3 of the paper). D is
dropout, of the change's whole input, as in the paper's code; without it y = m ∘ (V x) / ‖V‖ + b0.

Not `dora.py`, another paper's dynamic rank distribution (arXiv 2405.17357).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dora.adapters.arithmetic import update
from dora.adapters.budget import Budget, Matrix
from dora.adapters.lowrank import LowRankLinear
from dora.adapters.plan import Plan
from dora.methods.base import ParameterGroup, RunInfo
from dora.methods.lora import PlainLoRA, PlainSettings


class DecomposedLinear(LowRankLinear):
    """Trains the norm of each row of V, m (d_out,), beside A and B."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.together = not self.dropout
        self.m = nn.Parameter(self.A.new_zeros(self.out_features))

    @property
    def magnitude(self) -> Tensor:
        """The norm of each row of the whole weight, (d_out,)."""
        return self.m

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., d_out) for x of shape (..., d_in)."""
        undropped = None
        if self.training and self.dropout:
            kept = F.dropout(x, self.dropout)
            y = update(kept, 0.0, self.operands())[0]  # V D x
            undropped = F.linear(x - kept, self.weight)
        else:
            y = super().forward(x)  # V x
        tiny = torch.finfo(self.m.dtype).tiny  # a row of zeros stays one
        # In 32 bits, whatever y has: 16 would lose what training adds to m.
        y32 = y * (self.m / self.row_norms().clamp_min(tiny))
        for term in (undropped, self.base.bias):
            y32 = y32 if term is None else y32 + term
        return y32.to(y.dtype)

    def operands(self) -> tuple[Tensor | float | None, ...]:
        """Returns the values of V x: no bias, which is added last."""
        weight, _, *others = super().operands()
        return weight, None, *others

    @torch.no_grad()
    def row_norms(self) -> Tensor:
        """Returns ‖V‖, (d_out,)."""
        with torch.autocast(self.A.device.type, enabled=False):
            V = torch.addmm(self.weight.to(self.A), self.B, self.A, alpha=self.scale)
        return torch.linalg.vector_norm(V, dim=1)

    def factors(self) -> dict[str, nn.Parameter]:
        """Returns the trained tensors by name: A, B and m."""
        return {**super().factors(), "m": self.m}


class WeightDecomposed(PlainLoRA):
    """Draws A, leaves B at zero and m at the weight's own norms.

    A matrix stores d_out magnitudes beside its components, so that a number of parameters buys
    lower ranks than LoRA's.
    """

    title = "weight-decomposed DoRA"
    paper = "Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, ICML 2024, arXiv 2402.09353"
    note = "Weight-decomposed DoRA is PEFT's use_dora, and not dynamic rank distribution."
    settings_type = PlainSettings

    @classmethod
    def plan(
        cls, settings: PlainSettings, budget: Budget, matrices: tuple[Matrix, ...], run: RunInfo
    ) -> Plan:
        """Gives every matrix one rank, and the rest of a parameter budget in layer order.

        Raises ValueError if the budget leaves a matrix without a component: PEFT's format has no
        magnitudes alone.
        """
        matrices = tuple(replace(m, fixed_cost=m.d_out) for m in matrices)
        return super().plan(settings, budget, matrices, run)

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Spares m weight decay, which would pull the backbone's own weights to 0. [ours]"""
        magnitudes = [layer.factors()["m"] for layer in self.layers.values()]
        return (ParameterGroup(magnitudes, weight_decay=0.0),)

    def _layer_type(self) -> type[LowRankLinear]:
        return DecomposedLinear

    def _draw(self, generator: torch.Generator) -> None:
        super()._draw(generator)
        for layer in self.layers.values():
            m, W = layer.factors()["m"], layer.unpacked().detach()
            m.data = torch.linalg.vector_norm(W.to(m.dtype), dim=1).to(m.device)
