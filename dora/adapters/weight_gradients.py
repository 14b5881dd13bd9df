"""Gradients of the frozen weights under low-rank layers, for start values that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dora.adapters.lowrank import LowRankLinear


@contextmanager
def weight_gradients(model: nn.Module, layers: Iterable[LowRankLinear]) -> Iterator[None]:
    """Lets the backward passes of the context leave gradients, in place of all that were there.

    The trained tensors get theirs as always, and each layer's frozen weight, (d_out, d_in), gets its
    own. Raises UserError for a layer whose weight is packed.
    """
    layers = list(layers)
    model.zero_grad()
    # A frozen weight gets no gradient by itself: zeros in its shape are multiplied with the layer's
    # input beside it, and their gradient is the weight's. Without memory of their own, however
    # large the model.
    zeros = [q.unpacked().new_zeros(()).expand_as(q.weight).requires_grad_() for q in layers]
    with ExitStack() as hooks:
        for layer, zero in zip(layers, zeros, strict=True):
            hooks.enter_context(layer.register_forward_hook(partial(_add_product, zero)))
        yield
    for layer, zero in zip(layers, zeros, strict=True):
        # None: no row has come through the layer.
        layer.weight.grad = torch.zeros_like(layer.weight) if zero.grad is None else zero.grad


def _add_product(zero: Tensor, layer: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """Runs as a forward hook of `layer`; returns y + 0 x, (..., d_out)."""
    return y + F.linear(args[0], zero)
