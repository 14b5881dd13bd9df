"""NoRA (nested LoRA; Lin et al., 2024, arXiv 2408.10280): a small LoRA inside a frozen one.

    y = W0 x + b0 + s B_o B_i A_i A_o x

    A_o: (q, d_in)   A_i: (r, q)   B_i: (q, r)   B_o: (d_out, q)       q: outer rank, r ≤ q

The outer pair comes from the first q singular components of the weight, B_o = U Σ and A_o = Vᵀ, and
is frozen; the inner pair is trained. The update is zero at the start, so W0 needs no correction.
Not the later "NoRA" (arXiv 2602.22911). The paper's code is not public. Choices that it leaves open
are marked [ours] at the line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dora.adapters.budget import Budget, Matrix
from dora.adapters.lowrank import LowRankLinear
from dora.adapters.plan import Plan, equal_ranks
from dora.adapters.singular import first_components
from dora.methods import base
from dora.methods.base import FirstRows, ParameterGroup, RunInfo
from dora.methods.lora import PlainLoRA, kaiming
from dora.methods.rules import in_range, one_of

FAINT = 1e-4  # the least outer singular value that is kept, as a share of the largest one [ours]
CALIBRATION = 256  # training rows by which inputs are weighed [ours]


@dataclass
class Settings(base.Settings):
    """The settings in conf/method/nora.yaml."""

    scale: float
    dropout: float
    outer_rank: int
    svd: str

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range."""
        return [
            *in_range("method.scale", self.scale, 1e-6, math.inf, "usual is 1"),
            *in_range("method.dropout", self.dropout, 0, 1, "LoRA's GLUE runs use 0"),
            *in_range("method.outer_rank", self.outer_rank, 1, math.inf, "usual is 64"),
            *one_of("method.svd", self.svd, ("activation", "plain"), "usual is activation"),
        ]


class NestedLinear(LowRankLinear):
    """Trains A_i and B_i between two frozen factors, and multiplies as a layer of rank r."""

    outer_A: Tensor
    outer_B: Tensor

    def nest(self, outer_rank: int) -> None:
        """Takes up an outer pair of at most this rank, zero-filled, and gives A and B its width."""
        d_out, d_in = self.unpacked().shape
        width, zeros = min(outer_rank, d_out, d_in), self.A.new_zeros
        self.register_buffer("outer_A", zeros(width, d_in))
        self.register_buffer("outer_B", zeros(d_out, width))
        self.A.data, self.B.data = zeros(self.rank, width), zeros(width, self.rank)

    @torch.no_grad()
    def set_outer(self, inputs: Tensor | None) -> None:
        """Sets the outer pair from the base's weight.

        inputs: (d_in,), the root mean square of each input feature, by which the weight's columns
        are weighed in the decomposition; None for the plain one.
        """
        W = self.base.weight.to(self.A.dtype)  # a backbone may have 16 bits
        # The form of activation-aware SVD in a PEFT fork; the paper does not print its own. [ours]
        S = torch.ones_like(W[0]) if inputs is None else inputs + 1e-8
        S, W = S.cpu(), W.cpu()
        U, sigma, Vt = first_components(W * S, len(self.outer_A))
        # A direction of features that are all but 0 in these rows: Vᵀ / S would have entries up to
        # 1e8, for later rows that have such a feature.
        found = (sigma > FAINT * sigma[:1]).unsqueeze(1)
        self.outer_A.copy_(torch.where(found, Vt / S, 0.0))
        self.outer_B.copy_(U * sigma)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Returns the update as two factors, (r, d_in) and (d_out, r), s folded in."""
        A, B = self._products()
        return A.detach(), B.detach() * self.scale

    def operands(self) -> tuple[Tensor | float | None, ...]:
        """Returns W, b, A_i A_o, B_o B_i, None (there are no gates) and s."""
        weight, bias, *_, scale = super().operands()
        return weight, bias, *self._products(), None, scale

    def kept(self) -> dict[str, Tensor]:
        """Returns the frozen outer factors by name."""
        return {"outer_A": self.outer_A, "outer_B": self.outer_B}

    def _products(self) -> tuple[Tensor, Tensor]:
        # In 32 bits whatever autocast says; the products are rounded where they meet the input.
        with torch.autocast(self.A.device.type, enabled=False):
            return self.A @ self.outer_A, self.outer_B @ self.B


class NoRA(PlainLoRA):
    """Draws A_i and leaves B_i at zero; weight decay spares both. [ours]

    A component costs what LoRA's does: the export multiplies the pairs, so that plain LoRA of rank
    r is left.
    """

    title = "NoRA"
    paper = "Lin et al., NoRA: Nested Low-Rank Adaptation, 2024, arXiv 2408.10280"
    settings_type = Settings
    starts_from_runs = False

    @classmethod
    def plan(
        cls, settings: Settings, budget: Budget, matrices: tuple[Matrix, ...], run: RunInfo
    ) -> Plan:
        """Gives every matrix one inner rank, and the rest of a parameter budget in layer order.

        Raises ValueError if the budget does not fit the matrices, or the outer rank.
        """
        # Before the budget's own check, which names what fits the matrices.
        rank = max(equal_ranks(budget, matrices)) if matrices else 0
        if rank > settings.outer_rank:
            # No outer rank helps a budget that the matrices cannot hold.
            way = "" if budget.problem(matrices) else "raise that, or "
            raise ValueError(
                f"budget={budget} makes an inner rank of {rank}, which must not exceed "
                f"method.outer_rank={settings.outer_rank}: {way}lower the budget"
            )
        return super().plan(settings, budget, matrices, run)

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """Spares the inner pair weight decay."""
        factors = [p for layer in self.layers.values() for p in layer.factors().values()]
        return (ParameterGroup(factors, weight_decay=0.0),)

    def begin(self, forward: FirstRows) -> None:
        """Decomposes the weights, as the layers' inputs for some training rows weigh them.

        The inputs are those of training: the last layer computes first tokens alone, but for its
        keys and values, and its other matrices are weighed by these. [ours]
        """
        squares: dict[str, Tensor] = {}
        if self.settings.svd == "activation":
            squares = _mean_squares(self.layers, lambda: forward(CALIBRATION))
        for name, layer in self.layers.items():
            assert isinstance(layer, NestedLinear)  # by _layer_type
            if layer.rank:
                layer.set_outer(squares[name].sqrt() if squares else None)

    def _scale(self, rank: float) -> float:
        return float(self.settings.scale)  # B_o has the weight's own scale already [ours]

    def _layer_type(self) -> type[LowRankLinear]:
        return NestedLinear

    def _draw(self, generator: torch.Generator) -> None:
        for layer in self.layers.values():
            assert isinstance(layer, NestedLinear)  # by _layer_type
            layer.nest(self.settings.outer_rank)
            layer.A.data = kaiming(layer.A, generator)


def _mean_squares(
    layers: Mapping[str, LowRankLinear], forward: Callable[[], None]
) -> dict[str, Tensor]:
    """Returns the mean square of each input feature of each layer, (d_in,), in a forward pass."""
    sums = {name: layer.A.new_zeros(layer.in_features) for name, layer in layers.items()}
    counts = dict.fromkeys(layers, 0)

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            # DeBERTa's query and key see its relative positions, too: both inputs count.
            x = args[0].detach().reshape(-1, args[0].shape[-1])
            sums[name] += x.to(sums[name].dtype).pow(2).sum(0)
            counts[name] += len(x)

        return hook

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / max(1, counts[name]) for name, total in sums.items()}
