"""Attention and residual connections with dropout as single autograd functions, for a CPU.

Each does what the backbone's own modules do, with less memory traffic: dropout touches only the
entries that it drops (`dora.adapters.dropout`), factors are applied inside a product or a sum that
is computed anyway, and no copy is made for a mask.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dora.adapters.dropout import draw, put_, zero_
from dora.backbones.packing import Layout


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    p: float,
    scale: float,
    layout: Layout | None = None,
) -> Tensor:
    """Returns softmax(scale · Q Kᵀ) V with dropout on the softmax, (batch, length, heads, width).

    The definition is that of `scaled_dot_product_attention`, but for the order of the result's
    axes. query, key, value: (batch, heads, length, width); mask: (batch, 1, 1, length) bool or
    None, True where a key may be attended to. A packed batch has one long row and no mask: `layout`
    says which tokens attend to each other.
    """
    return _Attention.apply(query, key, value, mask, p, scale, layout)


def evaluated_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, layout: Layout
) -> Tensor:
    """Returns what `attention` does for a packed batch, by PyTorch's kernel, without gradients."""
    heads, width = query.shape[1], query.shape[3]
    outs = []
    for group, *qkv in _grouped((query, key, value), layout):
        q, k, v = (t.view(-1, heads, *t.shape[1:]) for t in qkv)
        outs.append(F.scaled_dot_product_attention(q, k, v, group.inside, scale=scale))
    return _packed(outs, layout, heads, width)


class _Attention(torch.autograd.Function):
    """Computes `attention`. P below is a softmax, (rows · heads, length, length)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        p: float,
        scale: float,
        layout: Layout | None,
    ) -> Tensor:
        """Returns (batch, length, heads, width); arguments as for `attention`."""
        ctx.factor, ctx.scale, ctx.layout = 1 / (1 - p), scale, layout
        heads, width = query.shape[1], query.shape[3]
        outs, saved = [], []
        for group, q, k, v in _grouped((query, key, value), layout):
            P = _scores(q, k, mask if group is None else group.inside, scale, heads).softmax(-1)
            dropped = draw(P, p)
            # The dropped entries are kept aside and set to 0 in place: P itself is what backward
            # needs, and a copy of it is the largest tensor of a layer.
            kept = P.view(-1).index_select(0, dropped)
            zero_(P, dropped)
            outs.append(torch.baddbmm(P.new_empty(1), P, v, beta=0, alpha=ctx.factor))
            saved += [q, k, v, P, dropped, kept]
        ctx.save_for_backward(*saved)
        return _packed(outs, layout, heads, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of query, key and value. dy: (batch, length, heads, width)."""
        heads, width = dy.shape[2:]
        saved = iter(ctx.saved_tensors)
        grads: list[tuple[Tensor, Tensor, Tensor]] = []
        for group, d in _grouped((dy.transpose(1, 2),), ctx.layout):
            q, k, v, P, dropped, kept = itertools.islice(saved, 6)
            if group is not None and group.inside is not None:
                # Padding has outputs that nobody reads, and so no gradient.
                d.view(-1, heads, *d.shape[1:]).mul_(group.inside.mT)
            unused = P.new_empty(1)  # beta=0 below: nothing is added
            dv = torch.baddbmm(unused, P.mT, d, beta=0, alpha=ctx.factor)
            dP = torch.baddbmm(unused, d, v.mT, beta=0, alpha=ctx.factor)
            zero_(dP, dropped)
            put_(P, dropped, kept)  # the derivative of the softmax needs all of it
            dS = torch.ops.aten._softmax_backward_data(dP, P, -1, P.dtype)
            dq = torch.baddbmm(unused, dS, k, beta=0, alpha=ctx.scale)
            dk = torch.baddbmm(unused, dS.mT, q, beta=0, alpha=ctx.scale)
            grads.append((dq, dk, dv))
        dq, dk, dv = (
            _packed(parts, ctx.layout, heads, width).transpose(1, 2)
            for parts in zip(*grads, strict=True)
        )
        return dq, dk, dv, None, None, None, None


def _grouped(tensors: Sequence[Tensor], layout: Layout | None) -> Iterator[Any]:
    """Yields (group, …) with each tensor's part, (rows · heads, length, width), contiguous.

    tensors: (batch, heads, length, width). A padded batch is one part, and its group is None.
    """
    if layout is None:
        yield None, *(t.reshape(-1, *t.shape[2:]) for t in tensors)
        return
    heads, width = tensors[0].shape[1], tensors[0].shape[3]
    # The heads of a token follow each other in memory, so that these views copy nothing.
    flat = [t.transpose(1, 2).reshape(-1, width) for t in tensors]
    for group, at in zip(layout.groups, layout.by_heads(heads)[0], strict=True):
        yield group, *(t.index_select(0, at).view(-1, group.longest, width) for t in flat)


def _packed(parts: Sequence[Tensor], layout: Layout | None, heads: int, width: int) -> Tensor:
    """Returns (batch, length, heads, width) from the parts of `_grouped`, without padding."""
    if layout is None:
        (x,) = parts
        return x.view(-1, heads, x.shape[-2], width).transpose(1, 2).contiguous()
    flat = [part.reshape(-1, width) for part in parts]
    joined = torch.cat(flat) if len(flat) > 1 else flat[0]
    return joined.index_select(0, layout.by_heads(heads)[1]).view(1, -1, heads, width)


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, scale: float, heads: int) -> Tensor:
    """Returns scale · q kᵀ, (rows · heads, length, length), −∞ where a key is masked."""
    scores = torch.baddbmm(q.new_empty(1), q, k.mT, beta=0, alpha=scale)
    if mask is not None:
        # Added rather than filled: masked_fill takes as long as the softmax.
        hidden = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -math.inf)
        scores.view(-1, heads, *scores.shape[1:]).add_(hidden)
    return scores


class _AddNorm(torch.autograd.Function):
    """Computes LayerNorm(residual + dropout(x)): the end of both halves of an encoder layer."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float, p: float
    ) -> Tensor:
        """Returns (..., d) in the residual's type. x, residual: (..., d); weight, bias: (d,)."""
        ctx.factor = 1 / (1 - p)
        dropped = draw(x, p)
        total = torch.add(residual, x, alpha=ctx.factor)
        # At the dropped entries the sum is the residual alone.
        put_(total, dropped, residual.reshape(-1).index_select(0, dropped))
        y, mean, rstd = torch.native_layer_norm(total, weight.shape, weight, bias, eps)
        ctx.save_for_backward(total, mean, rstd, weight, bias, dropped)
        ctx.dtype = x.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Returns gradients in the order of forward's arguments. dy: (..., d)."""
        total, mean, rstd, weight, bias, dropped = ctx.saved_tensors
        wanted = [True, *ctx.needs_input_grad[2:4]]
        dtotal, dweight, dbias = torch.ops.aten.native_layer_norm_backward(
            dy, total, weight.shape, mean, rstd, weight, bias, wanted
        )
        dx = torch.empty(dtotal.shape, dtype=ctx.dtype)
        torch.mul(dtotal, ctx.factor, out=dx)
        zero_(dx, dropped)
        return dx, dtotal, dweight, dbias, None, None


class Sublayer(nn.Module):
    """The end of an encoder's half layer: LayerNorm(dropout(dense(x)) + residual).

    Takes the three modules of Transformers' own module under their names, so that parameters keep
    theirs.
    """

    def __init__(self, of: Any) -> None:
        super().__init__()
        self.dense, self.dropout, self.LayerNorm = of.dense, of.dropout, of.LayerNorm

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Returns (..., d_out) for x of shape (..., d_in); residual: (..., d_out)."""
        x, norm = self.dense(x), self.LayerNorm
        p = self.dropout.p
        if not (self.training and p):
            return norm(x + residual)
        return _AddNorm.apply(x, residual, norm.weight, norm.bias, norm.eps, p)


def fuse_sublayers(model: nn.Module) -> None:
    """Replaces each module of a dense layer, dropout and LayerNorm by a `Sublayer`."""
    for owner in list(model.modules()):
        for name, child in owner.named_children():
            # By its parts: the class has another name in each architecture.
            if {"dense", "dropout", "LayerNorm"} == {n for n, _ in child.named_children()}:
                setattr(owner, name, Sublayer(child))
