"""Houlsby adapters (Houlsby et al., ICML 2019, arXiv 1902.00751), behind both half layers.

Formulas are in `dora.adapters.bottleneck`. As in the `adapters` library, and in the code of LoRA
and AdaLoRA, a backbone's LayerNorms stay frozen; Houlsby et al. train them too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dora.adapters.bottleneck import ACTIVATIONS, adapter_at, bottleneck_plan, insert
from dora.adapters.budget import Budget, Matrix
from dora.adapters.plan import Plan
from dora.backbones.architectures import KINDS, end_of, layer_and_kind, owner_of
from dora.errors import UserError
from dora.methods import base
from dora.methods.base import RunInfo
from dora.methods.rules import in_range, one_of


@dataclass
class Settings(base.Settings):
    """The settings in conf/method/houlsby.yaml and pfeiffer.yaml."""

    activation: str
    init_std: float
    dropout: float
    layer_norm: bool

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range."""
        library = "the adapters library uses"
        return [
            # With 0 for both D and U, neither has a gradient: only b_U would ever be trained.
            *in_range("method.init_std", self.init_std, 1e-6, math.inf, f"{library} 0.02"),
            *in_range("method.dropout", self.dropout, 0, 1, f"{library} 0"),
            *one_of(
                "method.activation",
                self.activation,
                ACTIVATIONS,
                f"{library} swish for Houlsby's adapters, relu for Pfeiffer's",
            ),
        ]


class Houlsby(base.Method):
    """Trains adapters behind both halves of every encoder layer, before the residual is added."""

    title = "Houlsby adapters"
    recordable = True
    paper = (
        "Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019, arXiv 1902.00751"
    )
    note = (
        "A budget of r8 stands for a bottleneck of 4 x 8, the papers' pairing with ranks; it is "
        "not the number of parameters of LoRA at r8."
    )
    result = "modules"
    settings_type = Settings
    layout = ("activation",)

    # The kinds of dense layers with an adapter behind them.
    _behind: ClassVar[tuple[str, ...]] = ("o", "ffn2")
    # AdaLoRA's Table 7 pairs bottlenecks of 8, 16 and 32 with ranks of 2, 4 and 8.
    _units: ClassVar[int] = 4
    _norm_first: ClassVar[bool] = False

    def __init__(self, settings: Settings, model: nn.Module, plan: Plan, run: RunInfo) -> None:
        self._adapters = insert(
            model,
            plan.matrices,
            [end_of(matrix.name) for matrix in plan.matrices],
            plan.start,
            settings.activation,
            settings.dropout,
            self._norm_first,
        )
        generator = run.generator("start")
        for adapter in self._adapters.values():
            # As in BERT, on which the library's and AdaLoRA's adapters start too. Houlsby et al.
            # write of a normal distribution with 0.01, cut at two deviations.
            for linear in (adapter.down, adapter.up):
                nn.init.normal_(linear.weight, std=settings.init_std, generator=generator)
                nn.init.zeros_(linear.bias)
        if settings.layer_norm:
            _train_norms(model, plan)

    @classmethod
    def plan(
        cls, settings: Settings, budget: Budget, matrices: tuple[Matrix, ...], run: RunInfo
    ) -> Plan:
        """Gives every adapter one bottleneck, and the rest of a parameter budget in layer order."""
        row = owner_of(matrices[0].name)
        if not row.ends:
            raise ValueError(
                f"{cls.title} stand in modules that end a half layer with dropout and LayerNorm, "
                "which this backbone's layers do not have: take a BERT, RoBERTa, DeBERTa, ELECTRA "
                "or MPNet"
            )
        found = [layer_and_kind(matrix.name) for matrix in matrices]
        kinds = tuple(kind for kind in KINDS if any(kind == k for _, k in found))
        if kinds != tuple(row.linears):
            raise ValueError(
                f"target={','.join(kinds)} does not apply to {cls.title}, which stand behind the "
                "outputs of every layer and adapt no linear: leave target= out"
            )
        dense = [m for m, (_, kind) in zip(matrices, found, strict=True) if kind in cls._behind]
        places = [adapter_at(matrix) for matrix in dense]
        if settings.layer_norm:
            places[0] = adapter_at(dense[0], _norm_parameters(matrices))
        return bottleneck_plan(budget, tuple(places), cls._units)

    def ranks(self) -> dict[str, int]:
        """Returns each adapter's bottleneck, by the name of the dense layer before it."""
        return {name: adapter.size for name, adapter in self._adapters.items()}


def _norm_parameters(matrices: tuple[Matrix, ...]) -> int:
    """Returns the parameters of all LayerNorms of the backbone that has these linears."""
    layers = {layer_and_kind(matrix.name)[0] for matrix in matrices}
    # Two in a layer, and the embeddings'. DeBERTaV3 has one more, for its relative positions.
    norms = 2 * len(layers) + 1 + matrices[0].name.startswith("deberta.")
    width = next(matrix.d_in for matrix in matrices if layer_and_kind(matrix.name)[1] == "q")
    return norms * 2 * width


def _train_norms(model: nn.Module, plan: Plan) -> None:
    """Unfreezes all LayerNorms. Raises UserError if the plan counts another number of them."""
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    held = sum(p.numel() for norm in norms for p in norm.requires_grad_(True).parameters())
    planned = sum(place.fixed_cost - place.d_out for place in plan.matrices)
    if held != planned:
        raise UserError(
            f"method.layer_norm=true counts on LayerNorms of {planned:,} parameters in such a "
            f"model, and this one's have {held:,}: train with method.layer_norm=false"
        )
