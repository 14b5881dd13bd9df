"""Norms of an update and of its components, B diag(g) A, without forming a d_out x d_in matrix.

They accept any leading axes, so that one call can treat many matrices of one shape.
"""

from __future__ import annotations

import torch
from torch import Tensor


def component_norms(A: Tensor, g: Tensor, B: Tensor) -> Tensor:
    """Returns ‖g_i B[:, i] A[i, :]‖_F of each component, (..., r), ≥ 0.

    A: (..., r, d_in), g: (..., r), B: (..., d_out, r).
    """
    # A rank-1 matrix's norm is the product of its factors' norms: no d_out x d_in array is formed.
    return g.abs() * torch.linalg.vector_norm(A, dim=-1) * torch.linalg.vector_norm(B, dim=-2)


def update_norm(A: Tensor, g: Tensor, B: Tensor) -> Tensor:
    """Returns ‖B diag(g) A‖_F, (...,), ≥ 0; shapes as for `component_norms`.

    The norm is computed as sqrt(gᵀ [(A Aᵀ) ∘ (Bᵀ B)] g), in O(r² (d_in + d_out)).
    """
    gram = (A @ A.mT) * (B.mT @ B)
    squared = (g.unsqueeze(-2) @ gram @ g.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    return squared.clamp_min(0).sqrt()  # rounding can leave −1e-12 where components cancel
