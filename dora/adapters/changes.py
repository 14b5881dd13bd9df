"""What a method may decide after a step, and how the decision is carried out on weights and
optimizer.

A method decides, the training loop applies: whatever touches shapes, an optimizer's moments or
something frozen is one of the changes here, so that each is written, and tested, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dora.adapters import lowrank
from dora.adapters.lowrank import LowRankLinear


@dataclass(frozen=True)
class Mask:
    """Sets the gates g of all components outside `keep` to 0; a gradient may revive them.

    `keep`: (r,) bool for each layer, in the order of `Method.layers`. `new`: False where a final
    set is only applied once more, which is not worth a line in ranks.jsonl.
    """

    keep: Sequence[Tensor]
    new: bool = True


@dataclass(frozen=True)
class Remove:
    """Takes all components outside `keep` out of the weights and out of the optimizer's moments for
    good.
    """

    keep: Sequence[Tensor]


@dataclass(frozen=True)
class Renew:
    """Keeps each layer's trained factors frozen beside it, and trains new ones from here on,
    without moments.

    `start`: for each layer the new factors' start values by name: "A" (r, d_in), "B" (d_out, r)
    and, where the layer is gated, "g" (r,). The rank r may differ from the old one.
    """

    start: Sequence[Mapping[str, Tensor]]


Change = Mask | Remove | Renew


def apply(
    change: Change, layers: Iterable[LowRankLinear], optimizer: torch.optim.Optimizer | None
) -> None:
    """Carries out a change on all layers; `optimizer`: whose moments follow, None where there is
    none.
    """
    if isinstance(change, Mask):
        lowrank.mask(layers, change.keep)
    elif isinstance(change, Remove):
        lowrank.remove(layers, change.keep, optimizer)
    else:
        lowrank.renew(layers, change.start, optimizer)


def stored_ranks(change: Change, layers: Mapping[str, LowRankLinear]) -> dict[str, int]:
    """Returns the number of stored components of each matrix once the change is applied, by matrix
    name.
    """
    if isinstance(change, Renew):
        return {name: layer.rank + layer.kept_rank for name, layer in layers.items()}
    # One transfer for all matrices: each one would wait for the device.
    kept = torch.cat(list(change.keep)).cpu().split([len(keep) for keep in change.keep])
    return {
        name: int(keep.sum()) + layer.kept_rank
        for (name, layer), keep in zip(layers.items(), kept, strict=True)
    }
