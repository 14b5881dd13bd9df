"""MELoRA (Ren et al., ACL 2024, arXiv 2402.17263): n small LoRAs on the diagonal of one update.

    y = W0 x + b0 + s · blockdiag(B_1 A_1, …, B_n A_n) x

    A = [A_1 | … | A_n]: (r, d_in)      A_k: (r, d_in/n)
    B = [B_1; …; B_n]:   (d_out, r)     B_k: (d_out/n, r)

A and B have the shapes of LoRA's and cost as much, and the update's rank is up to n r. PEFT's
format has no blocks, so an export fills them up with zeros, to n times the numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dora.adapters.budget import Budget, Matrix
from dora.adapters.lowrank import LowRankLinear
from dora.adapters.plan import Plan, equal_plan
from dora.methods.base import RunInfo
from dora.methods.lora import PlainLoRA, PlainSettings, kaiming


@dataclass
class Settings(PlainSettings):
    """The settings in conf/method/melora.yaml."""

    blocks: int


def block_diagonal(parts: Tensor) -> Tensor:
    """Returns blockdiag(X_1, …, X_n), (n p, n q), of the n parts, (n, p, q)."""
    # The gradient is the diagonal alone: entries outside the blocks are never trained.
    placed = torch.diag_embed(parts.movedim(0, -1), dim1=0, dim2=2)  # (n, p, n, q)
    return placed.flatten(2).flatten(0, 1)


class BlockLinear(LowRankLinear):
    """Trains the blocks of an update alone, and multiplies as a layer of rank n r.

    `blocks`: n, which divides both widths; the method sets it.
    """

    blocks: int = 1

    def expanded(self) -> tuple[Tensor, Tensor]:
        """Returns the factors as block-diagonal matrices, (n r, d_in) and (d_out, n r)."""
        if self.blocks == 1:  # LoRA's own factors, and so LoRA's bits
            return self.A, self.B
        # Products of all n r components, zeros included: at n = 4 a step costs 1.17 times LoRA's
        # for 4 x 256 and 1.15 times for 6 x 384 (rank 12, one thread).
        return (
            block_diagonal(self.A.unflatten(1, (self.blocks, -1)).transpose(0, 1)),
            block_diagonal(self.B.unflatten(0, (self.blocks, -1))),
        )

    def operands(self) -> tuple[Tensor | float | None, ...]:
        """Returns W, b, the expanded A and B, None (there are no gates) and s."""
        weight, bias, *_, scale = super().operands()
        return weight, bias, *self.expanded(), None, scale

    @torch.no_grad()
    def stored(self) -> tuple[Tensor, Tensor]:
        """Returns the update as two factors in PEFT's form, of rank n r, s folded in."""
        A, B = self.expanded()
        return A.detach(), B * self.scale


class MELoRA(PlainLoRA):
    """Draws each block as LoRA draws a matrix of the block's size, and leaves B at zero.

    The scale is alpha over a block's rank, not the update's, as in the released code.
    """

    title = "MELoRA"
    recordable = True
    paper = "Ren et al., MELoRA, ACL 2024, arXiv 2402.17263"
    settings_type = Settings
    layout = ("blocks",)  # equal tensors are another update in other blocks

    @classmethod
    def plan(
        cls, settings: Settings, budget: Budget, matrices: tuple[Matrix, ...], run: RunInfo
    ) -> Plan:
        """Gives the blocks of every matrix one rank, and the rest of a budget in layer order.

        Raises ValueError if the blocks don't fit the matrices, or the budget the blocks.
        """
        n, widths = settings.blocks, sorted({d for m in matrices for d in (m.d_in, m.d_out)})
        # The released code ignores the tail of an input that n does not divide.
        if n < 1 or any(d % n for d in widths):
            whole = math.gcd(*widths)
            fitting = ", ".join(str(k) for k in range(1, whole + 1) if whole % k == 0)
            raise ValueError(
                f"method.blocks={n} must divide every width of the adapted matrices "
                f"({', '.join(map(str, widths))}); these do: {fitting}"
            )
        return equal_plan(budget, matrices, blocks=n)

    def _layer_type(self) -> type[LowRankLinear]:
        return BlockLinear

    def _draw(self, generator: torch.Generator) -> None:
        n = self.settings.blocks
        for layer in self.layers.values():
            assert isinstance(layer, BlockLinear)  # by _layer_type
            layer.blocks = n
            # One row for each block's row, so that the fan-in is a block's: uniform on ±√(n/d_in),
            # √n times as wide as LoRA's.
            rows = layer.A.view(-1, layer.A.shape[1] // n)
            layer.A.data = kaiming(rows, generator).view_as(layer.A)
