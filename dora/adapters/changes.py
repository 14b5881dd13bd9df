"""Changes that a method may decide on after a step, and their application to weights and optimizer.

A method decides, the training loop applies. Everything that touches shapes, an optimizer's moments
or frozen tensors is one of the changes below, so each is written, and tested, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dora.adapters import components
from dora.adapters.lowrank import LowRankLinear
from dora.errors import UserError


@dataclass(frozen=True)
class Keep:
    """Chooses the components that live on; `Mask` and `Remove` differ in how the others go.

    `keep`: (r,) bool for each layer, in the order of `Method.layers`. `live_before`: the number of
    components that were live before, from a method whose gates die by themselves. `warning`: a
    sentence for the user, with a way out. Both are said in the log and written into the change's
    line of ranks.jsonl; the warning is kept in run.json, too.
    """

    keep: Sequence[Tensor]
    live_before: int | None = None
    warning: str | None = None


@dataclass(frozen=True)
class Mask(Keep):
    """Sets the gates g of all components outside `keep` to 0; a gradient may revive them.

    `new`: False if a final set is only applied once more, which is not worth a line in ranks.jsonl.
    """

    new: bool = True


@dataclass(frozen=True)
class Remove(Keep):
    """Deletes all components outside `keep` from the weights and the optimizer's moments."""


@dataclass(frozen=True)
class Renew:
    """Freezes each layer's trained factors beside it, and trains new ones, without moments.

    `start`: for each layer the new factors' start values by name: "A" (r, d_in), "B" (d_out, r)
    and, where the layer is gated, "g" (r,). The rank r may differ from the old one. Other factors
    of a layer of one's own stay as they are, unless they are named.
    """

    start: Sequence[Mapping[str, Tensor]]


Change = Mask | Remove | Renew


def apply(
    change: Change, layers: Iterable[LowRankLinear], *optimizers: torch.optim.Optimizer
) -> None:
    """Applies a change to all layers; the moments of `optimizers` follow it.

    Raises UserError if the `keep` of a `Mask` or `Remove` is not what it must be.
    """
    layers = list(layers)
    if isinstance(change, Keep):
        _check_keep(change, layers)
    if isinstance(change, Mask):
        components.mask(layers, change.keep)
    elif isinstance(change, Remove):
        components.remove(layers, change.keep, *optimizers)
    else:
        components.renew(layers, change.start, *optimizers)


def _check_keep(change: Keep, layers: Sequence[LowRankLinear]) -> None:
    """Raises UserError unless `keep` is (r,) bool for each layer."""
    # Unchecked, one entry would stand for all components, numbers would scale gates, and components
    # behind the last entry would go.
    name = f"{type(change).__name__}.keep"
    if len(change.keep) != len(layers):
        raise UserError(
            f"{name} has {len(change.keep)} entries for {len(layers)} layers: it must have one for "
            "each, in the order of Method.layers"
        )
    for at, (keep, layer) in enumerate(zip(change.keep, layers, strict=True)):
        if isinstance(keep, Tensor) and keep.dtype == torch.bool and keep.shape == (layer.rank,):
            continue
        found = type(keep).__name__
        if isinstance(keep, Tensor):
            found = f"{str(keep.dtype).removeprefix('torch.')} of shape {tuple(keep.shape)}"
        raise UserError(
            f"{name}[{at}] is {found}: it must be bool of shape ({layer.rank},), True for each of "
            "the layer's components that lives on (scores > 0 is such a tensor)"
        )


def noted(change: Change) -> dict[str, Any]:
    """Returns the method's own entries of the change's line in ranks.jsonl; empty without any."""
    if not isinstance(change, Keep):
        return {}
    about = {"live_before": change.live_before, "warning": change.warning}
    return {name: value for name, value in about.items() if value is not None}


def ranks_after(change: Change, layers: Mapping[str, LowRankLinear]) -> dict[str, int]:
    """Returns how many components each matrix stores after the change, by matrix name.

    The kept components of earlier renewals count too. `layers`: with the change applied.
    """
    if isinstance(change, Renew):
        return {name: layer.rank + layer.kept_rank for name, layer in layers.items()}
    # One transfer for all matrices: each transfer would wait for the device.
    kept = torch.cat(list(change.keep)).cpu().split([len(keep) for keep in change.keep])
    return {
        name: int(keep.sum()) + layer.kept_rank
        for (name, layer), keep in zip(layers.items(), kept, strict=True)
    }
