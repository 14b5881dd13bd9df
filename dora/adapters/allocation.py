"""Chooses the components that a budget keeps, by their scores and costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def select(scores: Tensor, costs: Tensor, total: int) -> Tensor:
    """Selects components in order of their scores, skipping each one that no longer fits.

    `scores`: (n,), higher is better, ties go to the lower index. `costs`: (n,), int64 ≥ 1 in the
    budget's unit. Returns (n,) bool, True for a component to keep. The kept cost is at most `total`
    and falls short of it by less than the cheapest component left out. With unit costs these are
    exactly the `total` best.
    """
    # The greedy choice without a loop over components. Once one of cost c is skipped, the remaining
    # budget only shrinks, so every later one of cost ≥ c is skipped too: one pass of cumulative
    # sums for each distinct cost is enough, and a backbone has two or three distinct costs.
    order = torch.sort(scores, descending=True, stable=True).indices
    cost = costs[order]
    fits = torch.ones_like(cost, dtype=torch.bool)
    for _ in range(len(torch.unique(costs))):
        over = fits & (torch.cumsum(cost * fits, 0) > total)
        # The first that is too much; argmax of all zeros is 0, which `over.any()` below rules out.
        first = torch.argmax(over.to(torch.int8))
        later = torch.arange(len(cost), device=cost.device) >= first
        fits &= ~(over.any() & later & (cost >= cost[first]))
    keep = torch.empty_like(fits)  # back from the order of scores to the order of components
    keep[order] = fits
    return keep


def allocate(scores: Sequence[Tensor], costs: Sequence[int], total: int) -> list[Tensor]:
    """Applies `select` to the components of all matrices at once.

    `scores`: (r,) for each matrix. `costs`: the cost of one component of each matrix. Returns (r,)
    bool for each matrix, on its device. Raises FloatingPointError if a score is not finite, since
    sorting would then order them by chance.
    """
    ranks = [len(s) for s in scores]
    flat = torch.cat(list(scores))
    own = [c for c, r in zip(costs, ranks, strict=True) for _ in range(r)]
    each = torch.tensor(own, device="cpu")  # a user may have set another default
    # On the host, whatever the device: a thousand scores are sorted there in less time than it
    # takes to launch the kernels on a GPU, and the host waits for the device once.
    on_host = flat.cpu()
    if bad := int((~on_host.isfinite()).sum()):
        raise FloatingPointError(f"importance scores not finite ({bad} of {len(flat)})")
    keep = select(on_host, each, total)
    if flat.is_cuda:  # from pinned memory the copy back is not waited for
        keep = keep.pin_memory().to(flat.device, non_blocking=True)
    return list(keep.split(ranks))
