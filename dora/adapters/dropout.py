"""Dropout at the cost of what it drops.

An ordinary dropout draws a random number for every entry, though only one in ten is dropped. On a
CPU that costs more than the matrix product beside it: 1,024 x 384 entries take 4.5 ms, the product
with a 384 x 384 matrix 2.2 ms (two cores, torch 2.13). Here the *gaps* between dropped entries are
drawn instead. In independent trials of probability p the gap from one success to the next is
geometric, so the positions are distributed as those of an entry-by-entry draw, with p times as many
random numbers. Only the dropped entries are touched after that.

On a GPU a draw for every entry is one cheap kernel, so a mask is drawn there.

Random numbers come from PyTorch's default generator, as those of `torch.nn.Dropout` do.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def draw(x: Tensor, p: float) -> Tensor:
    """Draws the entries of `x` to drop, each with probability p in [0, 1), independently.

    On a CPU, returns their positions in the flat tensor, (k,) int64, ascending; elsewhere a bool
    mask of x's shape, True for an entry that stays.
    """
    if x.device.type == "cpu":
        return _positions(x.numel(), p)
    return torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - p)


def _positions(n: int, p: float) -> Tensor:
    """Draws the successes of n independent trials of probability p: running sums of the gaps."""
    if p == 0 or n == 0:
        return torch.empty(0, dtype=torch.int64)
    found: list[Tensor] = []
    last = -1
    while last < n:
        mean = (n - last) * p
        # Six standard deviations more than the mean, so that one round is nearly always enough.
        at = _gaps(int(mean + 6 * math.sqrt(mean) + 16), p)
        at[0] += last
        at.cumsum_(0)
        found.append(at)
        last = int(at[-1])
    at = found[0] if len(found) == 1 else torch.cat(found)
    return at[: int(torch.searchsorted(at, n))]


def _gaps(count: int, p: float) -> Tensor:
    """Draws geometric gaps, (count,) int64 ≥ 1: a gap exceeds k with probability (1 − p)^k."""
    # Four 16-bit numbers from each 64 random bits: drawing bits is a third of the cost even so.
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return _table(p).index_select(0, bits.view(torch.uint16)[:count].to(torch.int32))


@functools.lru_cache(maxsize=16)
def _table(p: float) -> Tensor:
    """Returns the gap of each 16-bit number, (65536,) int64: floor(ln U / ln(1 − p)) + 1.

    U is the middle of the number's share of (0, 1), so P(gap ≤ k) is right to 2^−17 and the mean to
    1e-5 of itself. A look-up takes a quarter of the time of the logarithm and its conversions.
    """
    u = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    rate = min(math.log1p(-p), -1e-12)  # closer to 0, a gap would no longer fit its 64 bits
    return u.log().div_(rate).to(torch.int64).add_(1)


def zeroed(x: Tensor, dropped: Tensor) -> Tensor:
    """Returns a copy of `x` whose dropped entries are 0; the others are not scaled up."""
    if dropped.dtype == torch.bool:
        return x * dropped
    copy = x.clone(memory_format=torch.contiguous_format)
    zero_(copy, dropped)
    return copy


def zero_(x: Tensor, at: Tensor) -> None:
    """Sets the entries of `x`, contiguous, at flat positions `at` to 0 in place."""
    # A tensor of zeros rather than the number 0: scatter_ with a tensor is twice as fast.
    put_(x, at, torch.zeros(at.shape, dtype=x.dtype))


def put_(x: Tensor, at: Tensor, values: Tensor) -> None:
    """Writes `values` into `x`, contiguous, at flat positions `at` in place."""
    flat = x.view(-1)
    # As integers of the same width: scatter_ of 16-bit floats takes four times as long.
    if x.dtype.itemsize == 2:
        flat, values = flat.view(torch.int16), values.view(torch.int16)
    flat.scatter_(0, at, values)


def add_product_(y: Tensor, left: Tensor, right: Tensor, dropped: Tensor) -> None:
    """Adds left @ right to y in place, except at the dropped entries. y: contiguous."""
    if dropped.dtype == torch.bool:
        y.add_((left @ right).mul_(dropped))
        return
    # Keeping the few dropped entries and putting them back costs less than a mask over all of y.
    before = y.view(-1).index_select(0, dropped)
    y.addmm_(left, right)
    put_(y, dropped, before)


class _Drop(torch.autograd.Function):
    """Drops entries and scales the others by 1 / (1 − p), in forward and backward alike."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        """Returns x, of any shape, with dropout."""
        # Only the drawn positions are kept for backward, not a mask over all of x.
        dropped = draw(x, p)
        ctx.save_for_backward(dropped)
        ctx.factor = 1 / (1 - p)
        return zeroed(x, dropped).mul_(ctx.factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        """Returns the gradient of x: dy, dropped at the same entries."""
        return zeroed(dy, *ctx.saved_tensors).mul_(ctx.factor), None


class Dropout(nn.Module):
    """Does what `torch.nn.Dropout(p)` does, drawing gaps instead of entries on a CPU."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Returns x, of any shape, with dropout in training mode."""
        return _Drop.apply(x, self.p) if self.training and self.p else x


def replace(model: nn.Module) -> None:
    """Puts a `Dropout` of ours in the place of every `torch.nn.Dropout`."""
    for owner in list(model.modules()):
        for name, child in owner.named_children():
            if type(child) is nn.Dropout:  # not a subclass, which may do something else
                setattr(owner, name, Dropout(child.p))
