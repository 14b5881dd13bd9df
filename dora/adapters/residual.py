"""A layer whose factors begin at other values than 0, taken out of the weight beside them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dora.adapters.lowrank import LowRankLinear


class ResidualLinear(LowRankLinear):
    """Holds the start values of A and B beside them: y = W0 x + b0 + s (B A − B0 A0) x.

    The kept factors are A0 and −s B0, so that the base's weight stays as it was loaded. They see
    the whole input, as PEFT's W0 − s B0 A0 does: dropout is of the trained factors' input alone.
    An export stores a component twice, which its cost must say: 2 (d_in + d_out).
    """

    def __init__(
        self, base: nn.Linear, rank: int, scale: float, dropout: float, gated: bool
    ) -> None:
        super().__init__(base, rank, scale, dropout, gated)
        # Zeros until a method sets others, perhaps in `begin`: a run that begins at another's
        # factors (`init_from`) goes on with its start values if it holds any itself.
        self.start_at(self.A, self.B)

    @property
    def kept_rank(self) -> int:
        """0: a trained component and its start values are one component, of twice the cost."""
        return 0

    @torch.no_grad()
    def start_at(self, A: Tensor, B: Tensor) -> None:
        """Begins the factors at A0 = A, (r, d_in), and B0 = B, (d_out, r); the output stays."""
        self.A.copy_(A)
        self.B.copy_(B)
        self.kept_A, self.kept_B = self.A.clone(), -self.scale * self.B
