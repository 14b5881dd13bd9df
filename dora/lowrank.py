"""The one layer of every low-rank method, and what can be done to its components.

    y = W0 x + b0 + s · B diag(g) A x        A: (r, d_in)   g: (r,)   B: (d_out, r)

Component i is g_i B[:, i] A[i, :]. *Masking* sets g_i to 0 and leaves everything else, so that a gradient
may revive it; *removing* takes its row of A, column of B, g and optimizer moments away for good.

The functions on bare tensors accept any leading axes, so that many matrices of one shape, or many runs,
can be treated in one call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dora.budget import Matrix


def component_norms(A: Tensor, g: Tensor, B: Tensor) -> Tensor:
    """‖g_i B[:, i] A[i, :]‖_F of each component, (..., r), without forming a d_out x d_in array.

    A rank-1 matrix's norm is the product of its factors' norms. A: (..., r, d_in), g: (..., r),
    B: (..., d_out, r).
    """
    return g.abs() * torch.linalg.vector_norm(A, dim=-1) * torch.linalg.vector_norm(B, dim=-2)


def update_norm(A: Tensor, g: Tensor, B: Tensor) -> Tensor:
    """‖B diag(g) A‖_F, (...,), as sqrt(gᵀ [(A Aᵀ) ∘ (Bᵀ B)] g): O(r² (d_in + d_out)), shapes as above."""
    gram = (A @ A.mT) * (B.mT @ B)
    squared = (g.unsqueeze(-2) @ gram @ g.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    return squared.clamp_min(0).sqrt()  # rounding can leave −1e-12 where components cancel


class LowRankLinear(nn.Module):
    """A frozen linear layer with trainable rank-1 components beside it.

    `base` is frozen and kept as it is, weight and bias. `scale` is s above, a constant. `gated` says whether
    g is trained (DoRA, AdaLoRA) or fixed at 1 and absent (LoRA). `dropout` applies to the adapter's input
    only. A, B and g come zero-filled; the method sets their start values.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float, dropout: float, gated: bool) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        device = base.weight.device
        self.A = nn.Parameter(torch.zeros(rank, base.in_features, device=device))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        self.g = nn.Parameter(torch.zeros(rank, device=device)) if gated else None

    @property
    def rank(self) -> int:
        """Components held, masked ones included."""
        return self.A.shape[0]

    def live(self) -> Tensor:
        """(r,) bool: components that are not masked."""
        return torch.ones_like(self.A[:, 0], dtype=torch.bool) if self.g is None else self.g != 0

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., d_in) → (..., d_out). A matrix of rank 0 costs nothing beyond its base."""
        y: Tensor = self.base(x)
        if self.rank == 0:
            return y
        h = F.linear(self.dropout(x), self.A)
        h = h * self.scale if self.g is None else h * (self.g * self.scale)
        return y + F.linear(h, self.B)

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """(A, s B diag(g)): the update as two factors of (r, d_in) and (d_out, r), g and s inside B."""
        B = self.B if self.g is None else self.B * self.g
        return self.A.detach(), B * self.scale

    def delta(self) -> Tensor:
        """The update s B diag(g) A as a (d_out, d_in) matrix, for merging and for tests."""
        A, B = self.folded()
        return B @ A

    def factors(self) -> dict[str, nn.Parameter]:
        """The trained tensors by name: A, B and, where it is trained, g."""
        named = {"A": self.A, "B": self.B}
        return named if self.g is None else {**named, "g": self.g}


# The axis along which each factor's components lie.
_AXIS = {"A": 0, "B": 1, "g": 0}


def adapt(
    model: nn.Module,
    matrices: Sequence[Matrix],
    ranks: Sequence[int],
    scale: float,
    dropout: float,
    gated: bool,
) -> dict[str, LowRankLinear]:
    """Puts a LowRankLinear in the place of each named linear; returns them by matrix name, in order."""
    layers = {}
    for matrix, rank in zip(matrices, ranks, strict=True):
        parent, _, attribute = matrix.name.rpartition(".")
        owner = model.get_submodule(parent)
        layer = LowRankLinear(getattr(owner, attribute), rank, scale, dropout, gated)
        setattr(owner, attribute, layer)
        layers[matrix.name] = layer
    return layers


@torch.no_grad()
def mask(layers: Iterable[LowRankLinear], keep: Iterable[Tensor]) -> None:
    """Sets g to 0 where `keep`, (r,) bool per layer, is False. A, B, gradients and moments stay."""
    for layer, k in zip(layers, keep, strict=True):
        if layer.g is None:
            raise ValueError("a layer without g has nothing to mask")
        layer.g.mul_(k)


@torch.no_grad()
def remove(
    layers: Iterable[LowRankLinear], keep: Iterable[Tensor], optimizer: torch.optim.Optimizer | None
) -> None:
    """Takes the components where `keep` is False out of the weights and out of the optimizer's moments.

    The parameters stay the same objects with smaller data, so the optimizer's groups need no change.
    Gradients are dropped, and no graph of an earlier forward may still be alive: both have the old shapes.
    """
    for layer, k in zip(layers, keep, strict=True):
        index = k.nonzero().squeeze(1)
        for name, p in layer.factors().items():
            if optimizer is not None:
                for key, moment in optimizer.state.get(p, {}).items():
                    if moment.shape == p.shape:  # not the step counter
                        optimizer.state[p][key] = moment.index_select(_AXIS[name], index)
            p.grad = None
            p.data = p.data.index_select(_AXIS[name], index)


@torch.no_grad()
def restore(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Sets parameters to stored tensors by name, taking on their shapes: a stored rank may be smaller."""
    for name, p in parameters.items():
        p.grad = None
        p.data = tensors[name].to(device=p.device, dtype=p.dtype, copy=True)
