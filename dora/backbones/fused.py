"""Attention and residual connections with dropout as single autograd functions, for a CPU.

Each does what the backbone's own modules do, with less memory traffic: dropout touches only the
entries that it drops (`dora.adapters.dropout`), factors are applied inside a product or a sum that
is computed anyway, and no copy is made for a mask.
"""

from __future__ import annotations

import math
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


def padded_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, layout: Layout
) -> Tensor:
    """Returns what `attention` does for a packed batch, by PyTorch's kernel, without gradients."""
    heads = query.shape[1]
    q, k, v = (
        _rows(t, layout).view(layout.rows, heads, layout.longest, -1) for t in (query, key, value)
    )
    mask = layout.inside if layout.padded else None
    return _packed(F.scaled_dot_product_attention(q, k, v, mask, scale=scale), layout, heads)


class _Attention(torch.autograd.Function):
    """Computes `attention`. P below is the softmax, (rows · heads, length, length)."""

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
        heads = query.shape[1]
        q, k, v = (_rows(t, layout) for t in (query, key, value))
        if layout is not None and layout.padded:
            mask = layout.inside
        P = _scores(q, k, mask, scale, heads).softmax(-1)
        ctx.factor, ctx.scale, ctx.layout = 1 / (1 - p), scale, layout
        dropped = draw(P, p)
        # The dropped entries are kept aside and set to 0 in place: P itself is what backward needs,
        # and a copy of it is the largest tensor of a layer.
        kept = P.view(-1).index_select(0, dropped)
        zero_(P, dropped)
        out = torch.baddbmm(P.new_empty(1), P, v, beta=0, alpha=ctx.factor)
        ctx.save_for_backward(q, k, v, P, dropped, kept)
        return _packed(out, layout, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of query, key and value. dy: (batch, length, heads, width)."""
        q, k, v, P, dropped, kept = ctx.saved_tensors
        layout, heads = ctx.layout, dy.shape[2]
        dy = _rows(dy.transpose(1, 2), layout)
        if layout is not None and layout.padded:
            # Padding has outputs that nobody reads, and so no gradient.
            dy.view(-1, heads, *dy.shape[1:]).mul_(layout.inside.mT)
        unused = P.new_empty(1)  # beta=0 below: nothing is added
        dv = torch.baddbmm(unused, P.mT, dy, beta=0, alpha=ctx.factor)
        dP = torch.baddbmm(unused, dy, v.mT, beta=0, alpha=ctx.factor)
        zero_(dP, dropped)
        put_(P, dropped, kept)  # the derivative of the softmax needs all of it
        dS = torch.ops.aten._softmax_backward_data(dP, P, -1, P.dtype)
        dq = torch.baddbmm(unused, dS, k, beta=0, alpha=ctx.scale)
        dk = torch.baddbmm(unused, dS.mT, q, beta=0, alpha=ctx.scale)
        dq, dk, dv = (_packed(d, layout, heads).transpose(1, 2) for d in (dq, dk, dv))
        return dq, dk, dv, None, None, None, None


def _rows(x: Tensor, layout: Layout | None) -> Tensor:
    """Returns (rows · heads, length, width) from (batch, heads, length, width).

    Each matrix is contiguous, as bmm wants it. The rows of a packed batch are padded.
    """
    heads, width = x.shape[1], x.shape[3]
    if layout is None:
        return x.reshape(-1, *x.shape[2:])
    # The heads of a token follow each other in memory, so that this view copies nothing.
    flat = x.transpose(1, 2).reshape(-1, width)
    return flat.index_select(0, layout.by_heads(heads)[0]).view(-1, layout.longest, width)


def _packed(x: Tensor, layout: Layout | None, heads: int) -> Tensor:
    """Returns (batch, length, heads, width) from the form of `_rows`, without padding."""
    width = x.shape[-1]
    if layout is None:
        return x.view(-1, heads, x.shape[-2], width).transpose(1, 2).contiguous()
    flat = x.reshape(-1, width).index_select(0, layout.by_heads(heads)[1])
    return flat.view(1, -1, heads, width)


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
