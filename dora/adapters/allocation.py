"""Which components a budget keeps, by their scores and costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def select(scores: torch.Tensor, costs: torch.Tensor, total: int) -> torch.Tensor:
    """The components that live: best score first, skipping one that no longer fits.

    `scores`: (n,), higher is better, ties go to the lower index. `costs`: (n,), int64 ≥ 1 in the
    budget's unit. Returns (n,) bool whose kept cost is at most `total` and falls short of it by
    less than the cheapest component left out. With unit costs this is exactly the `total` best.

    Once a component of cost c is skipped, what is left only shrinks, so every later one of cost ≥ c
    is skipped too: one pass of cumulative sums per distinct cost gives the greedy choice.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    cost = costs[order]
    fits = torch.ones_like(cost, dtype=torch.bool)
    for _ in range(len(torch.unique(costs))):
        over = fits & (torch.cumsum(cost * fits, 0) > total)
        first = torch.argmax(over.to(torch.int8))
        later = torch.arange(len(cost), device=cost.device) >= first
        fits &= ~(over.any() & later & (cost >= cost[first]))
    keep = torch.empty_like(fits)
    keep[order] = fits
    return keep


def allocate(
    scores: Sequence[torch.Tensor], costs: Sequence[int], total: int
) -> list[torch.Tensor]:
    """`select` over all matrices at once: scores (r,) per matrix, one cost a matrix → (r,) bool per
    matrix.

    On the host, whatever the device: a thousand scores are sorted there sooner than a GPU has been
    asked to, and the host waits for the device once. Raises FloatingPointError where a score is not
    finite: an order of such scores would be one by chance.
    """
    ranks = [len(s) for s in scores]
    flat = torch.cat(list(scores))
    each = torch.tensor([c for c, r in zip(costs, ranks, strict=True) for _ in range(r)])
    on_host = flat.cpu()
    if bad := int((~on_host.isfinite()).sum()):
        raise FloatingPointError(f"importance scores not finite ({bad} of {len(flat)})")
    keep = select(on_host, each, total)
    if flat.is_cuda:  # from pinned memory the copy back is not waited for
        keep = keep.pin_memory().to(flat.device, non_blocking=True)
    return list(keep.split(ranks))
