"""Layers of one shape treated as one: their factors in a stack, for penalties and scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dora.adapters.lowrank import LowRankLinear


class Stack:
    """Layers of one shape whose factors are stacked, so that one call treats all of them.

    A few hundred small products, called one by one, take longer to begin than to compute. If ranks
    differ, the smaller matrices are padded with components of zeros. In the shapes below m is the
    number of matrices and R the largest rank when the stack is made.
    """

    def __init__(self, layers: Sequence[LowRankLinear]) -> None:
        self.layers = list(layers)
        self.ranks = [layer.rank for layer in layers]
        self._real: Tensor | None = None

    @property
    def real(self) -> Tensor:
        """(m, R), 1 for a component and 0 for padding."""
        weight = self.layers[0].A
        # Made once on each device: the ranks come from the host.
        if self._real is None or self._real.device != weight.device:
            ranks = torch.tensor(self.ranks, device=weight.device).unsqueeze(1)
            self._real = (torch.arange(max(self.ranks), device=weight.device) < ranks).to(
                weight.dtype
            )
        return self._real

    def of(self, name: str) -> Tensor:
        """Returns the stacked A, (m, R, d_in), B transposed, (m, R, d_out), or g, (m, R).

        Gradients flow back to the layers' factors.
        """
        return self._padded([getattr(layer, name) for layer in self.layers], name)

    def gradient_of(self, name: str) -> Tensor:
        """Returns a factor's stacked gradients in the shapes of `of`, zeros for missing ones."""
        factors = [getattr(layer, name) for layer in self.layers]
        return self._padded(
            [torch.zeros_like(p) if p.grad is None else p.grad for p in factors], name
        )

    def split(self, stacked: Tensor) -> list[Tensor]:
        """Returns (r, ...) for each layer from (m, R, ...), without the padding, as views."""
        return [part[:rank] for part, rank in zip(stacked, self.ranks, strict=True)]

    def _padded(self, tensors: list[Tensor], name: str) -> Tensor:
        """Stacks a factor of all layers, components on axis 1, padded to the largest rank."""
        most = max(self.ranks)
        # F.pad counts axes from the last one, and a component is a row of A, but a column of B.
        sides = (0, 0, 0) if name == "A" else (0,)
        # Not pad_sequence: its backward copies the whole stack once for each matrix.
        stacked = torch.stack(
            [
                t if rank == most else F.pad(t, (*sides, most - rank))
                for t, rank in zip(tensors, self.ranks, strict=True)
            ]
        )
        # Transposed as a whole: nothing is copied but each factor, in its own order.
        return stacked.mT if name == "B" else stacked


def stacks(layers: Iterable[LowRankLinear]) -> list[Stack]:
    """Stacks the layers that hold components, one stack for each shape."""
    by_shape: dict[tuple[int, ...], list[LowRankLinear]] = {}
    for layer in layers:
        if layer.rank:
            by_shape.setdefault((layer.A.shape[1], layer.B.shape[0]), []).append(layer)
    return [Stack(group) for group in by_shape.values()]


def in_order(
    layers: Iterable[LowRankLinear], stacked: Iterable[tuple[Stack, Tensor]]
) -> list[Tensor]:
    """Returns the part (r, ...) of each layer in the order of `layers`.

    `stacked`: stacks with a tensor (m, R, ...) each. A layer without components is in no stack, and
    gets an empty tensor.
    """
    found = {
        layer: part
        for stack, t in stacked
        for layer, part in zip(stack.layers, stack.split(t), strict=True)
    }
    return [found.get(layer, layer.A.new_zeros(0)) for layer in layers]


def gram(X: Tensor) -> Tensor:
    """Returns X Xᵀ, (..., r, r), for X of shape (..., r, d), with a gradient of one product."""
    return _Gram.apply(X)


class _Gram(torch.autograd.Function):
    """Computes `gram`. Autograd takes X and Xᵀ for two factors, and needs two products."""

    @staticmethod
    def forward(ctx: Any, X: Tensor) -> Tensor:
        """Returns X Xᵀ."""
        ctx.save_for_backward(X)
        return X @ X.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dG: Tensor) -> Tensor:
        """Returns (dG + dGᵀ) X, in the memory order of X."""
        (X,) = ctx.saved_tensors
        both = dG + dG.mT
        return both @ X if X.stride(-1) == 1 else (X.mT @ both).mT
