"""The components of low-rank layers: masked, removed, kept and renewed, or counted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from dora.adapters.lowrank import LowRankLinear
from dora.adapters.resizing import cut_moments, forget, set_data

# The axis of each factor along which its components lie. A layer of one's own may have factors
# without one, such as a norm for each output.
_AXIS = {"A": 0, "B": 1, "g": 0}


@torch.no_grad()
def mask(layers: Iterable[LowRankLinear], keep: Iterable[Tensor]) -> None:
    """Sets g to 0 where `keep`, (r,) bool for each layer, is False.

    A, B, gradients and moments stay. Raises ValueError for a layer without g.
    """
    for layer, k in zip(layers, keep, strict=True):
        if layer.g is None:
            raise ValueError("a layer without g has nothing to mask")
        layer.g.mul_(k)


@torch.no_grad()
def remove(
    layers: Iterable[LowRankLinear], keep: Iterable[Tensor], *optimizers: torch.optim.Optimizer
) -> None:
    """Deletes the components where `keep` is False from the weights and the optimizers' moments.

    Gradients are deleted too. A loss of an earlier step may still be alive, but no backward pass
    may follow through it, since its tensors have the old shapes. A factor that has no components
    stays as it is.
    """
    for layer, k in zip(layers, keep, strict=True):
        index = k.nonzero().squeeze(1)
        for name, p in layer.factors().items():
            if (axis := _AXIS.get(name)) is not None:
                cut_moments(optimizers, p, axis, index)
                set_data(p, p.data.index_select(axis, index))


@torch.no_grad()
def renew(
    layers: Iterable[LowRankLinear],
    start: Iterable[Mapping[str, Tensor]],
    *optimizers: torch.optim.Optimizer,
) -> None:
    """Moves each layer's live components to its kept ones, and begins new ones from `start`.

    `start`: the new factors by name for each layer; ranks may differ from the old ones. The new
    ones begin without moments. A factor that has no components and is not in `start` stays as it is.
    """
    for layer, factors in zip(layers, start, strict=True):
        # `stored` holds the components kept before, too. Masked ones are given up here for good.
        A, B = layer.stored()
        if len(A):
            layer.kept_A, layer.kept_B = A.contiguous(), B.contiguous()
        for name, p in layer.factors().items():
            if name in factors or name in _AXIS:
                forget(optimizers, p)
                set_data(p, factors[name].to(device=p.device, dtype=p.dtype, copy=True))


def drop_masked(layers: Collection[LowRankLinear]) -> None:
    """Removes the masked components after training: only live ones are stored."""
    if any(layer.g is not None for layer in layers):
        remove(layers, [layer.live() for layer in layers])


def stored_ranks(layers: Mapping[str, LowRankLinear]) -> dict[str, int]:
    """Returns how many components each matrix stores, live and kept ones, as a plan counts them."""
    gates = {name: layer.g for name, layer in layers.items() if layer.g is not None}
    live = {name: layer.rank for name, layer in layers.items()}
    if gates:
        # One transfer for all matrices: each transfer would wait for the device.
        found = torch.cat(list(gates.values())).ne(0).cpu().split([len(g) for g in gates.values()])
        live |= {name: int(alive.sum()) for name, alive in zip(gates, found, strict=True)}
    return {name: live[name] + layer.kept_rank for name, layer in layers.items()}
