"""The factors that several clients have trained of the same layers, and their exact average.

For each layer, with shares p_k, averages Ā (r, d_in) and B̄ (d_out, r), and the exact average of
the clients' updates ΔW = Σ p_k B_k A_k, all quantities here follow from products of factors; no
d_out x d_in array is formed:

    G  = Ā Āᵀ                              (r, r)
    M  = ΔW Āᵀ = Σ p_k B_k (A_k Āᵀ)        (d_out, r)
    w² = ‖ΔW‖² = Σ_kl p_k p_l ⟨B_kᵀ B_l, A_k A_lᵀ⟩

In float64 on the CPU, so that every machine gets the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClientFactors:
    """The quantities of each layer, in lists of one order; w is a list of numbers."""

    names: list[str]
    B: list[Tensor]
    G: list[Tensor]
    M: list[Tensor]
    w: list[float]

    @staticmethod
    def of(
        names: Sequence[str],
        pairs: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]],
        shares: Sequence[float],
    ) -> ClientFactors:
        """Gathers the layers; `pairs`: for each the clients' A (r, d_in) and B (d_out, r)."""
        found = ClientFactors(list(names), [], [], [], [])
        p = torch.tensor(shares, dtype=torch.float64)
        for As, Bs in pairs:
            A = torch.stack([each.detach().cpu().double() for each in As])
            B = torch.stack([each.detach().cpu().double() for each in Bs])
            mean = torch.einsum("k,krd->rd", p, A)
            found.B.append(torch.einsum("k,kdr->dr", p, B))
            found.G.append(mean @ mean.t())
            found.M.append(torch.einsum("k,kdr,krs->ds", p, B, A @ mean.t()))
            BB = torch.einsum("kdr,lds->klrs", B, B)
            AA = torch.einsum("krd,lsd->klrs", A, A)
            squared = torch.einsum("k,l,klrs,klrs->", p, p, BB, AA)
            found.w.append(math.sqrt(max(0.0, squared.item())))
        return found

    def bias(self, B: Sequence[Tensor] | None = None) -> float | None:
        """Returns ‖ΔW − B Ā‖ / ‖ΔW‖ over all layers, or None where ΔW is zero.

        `B`: (d_out, r) of each layer, B̄ by default.
        """
        apart, whole = 0.0, 0.0
        for b, G, M, w in zip(B or self.B, self.G, self.M, self.w, strict=True):
            apart += w**2 - 2 * (b * M).sum().item() + (b * (b @ G)).sum().item()
            whole += w**2
        return math.sqrt(max(0.0, apart) / whole) if whole else None
