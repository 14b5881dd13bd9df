"""Attention and residual connections with dropout as single autograd functions, for a CPU.

Each does what the backbone's own modules do, with less memory traffic: dropout touches only the
entries that it drops (`dora.adapters.dropout`), factors are applied inside a product or a sum that
is computed anyway, and no copy is made for a mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dora.adapters.dropout import draw, put_, zero_
from dora.backbones.packing import Layout, pack, pad

# Queries, (rows, heads, queries, width), and keys, (rows, heads, length, width) → what is added to
# their scores, (heads, queries, length), with an axis of rows before it if rows differ.
Bias = Callable[[Tensor, Tensor], Tensor]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    p: float,
    scale: float,
    layout: Layout | None = None,
    bias: Bias | None = None,
) -> Tensor:
    """Returns softmax(scale · Q Kᵀ + bias) V with dropout on the softmax, (batch, queries, heads,
    width).

    The definition is that of `scaled_dot_product_attention`, but for the order of the result's
    axes. query: (batch, heads, queries, width); key, value: (batch, heads, length, width); mask:
    (batch, 1, 1, length) bool or None, True where a key may be attended to.

    A packed batch has one long row and no mask: `layout` says which tokens attend to each other.
    Its queries may be those of each row's first token alone, (rows, heads, 1, width).

    bias: gives what is added to a batch's scores, of its queries and keys, or None.
    """
    if torch.is_autocast_enabled("cpu"):
        # Autocast does not reach inside an autograd function, and a method's own layer may give
        # one of the three in 32 bits beside others in 16.
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if layout is None:
        return _attend(query, key, value, mask, p, scale, bias).transpose(1, 2)
    alone = query.shape[2] < key.shape[2]  # first tokens: nothing to pad, but the groups' order
    if alone:
        queries = query.index_select(0, layout.order).split([g.rows for g in layout.groups])
        padded = [(q, *kv) for q, kv in zip(queries, pad((key, value), layout), strict=True)]
    else:
        padded = pad((query, key, value), layout)
    outs = [
        _attend(q, k, v, group.inside, p, scale, bias)
        for group, (q, k, v) in zip(layout.groups, padded, strict=True)
    ]
    out = torch.cat(outs).index_select(0, layout.place) if alone else pack(outs, layout)
    return out.transpose(1, 2)


def split_heads(x: Tensor, width: int) -> Tensor:
    """Returns (batch, heads, length, width) for x of shape (batch, length, heads · width)."""
    return x.unflatten(2, (-1, width)).transpose(1, 2)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    p: float,
    scale: float,
    bias: Bias | None,
) -> Tensor:
    """Returns attention for padded rows, (rows, heads, queries, width); arguments as above."""
    # Without gradients, as in every evaluation, PyTorch's fused kernel takes half our time in fp32,
    # and up to twice our time in 16 bits. With a bias it would need one for each row.
    if torch.is_grad_enabled() or q.dtype.itemsize == 2 or bias is not None:
        return _Attention.apply(q, k, v, mask, p, scale, None if bias is None else bias(q, k))
    return F.scaled_dot_product_attention(q, k, v, mask, p, scale=scale)


class _Attention(torch.autograd.Function):
    """Computes `_attend`. P below is a softmax, (rows · heads, queries, length)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        p: float,
        s: float,
        bias: Tensor | None,
    ) -> Tensor:
        """Returns (rows, heads, queries, width); arguments as for `_attend`, s is its scale.

        bias: (rows or none, heads, queries, length) or None.
        """
        ctx.factor, ctx.scale, ctx.shapes = 1 / (1 - p), s, (query.shape, key.shape)
        ctx.bias = None if bias is None or not bias.requires_grad else (bias.dtype, bias.dim())
        q, k, v = (t.reshape(-1, *t.shape[2:]) for t in (query, key, value))
        P = _scores(q, k, mask, s, query.shape[1], bias).softmax(-1)
        dropped = draw(P, p)
        # The dropped entries are kept aside and set to 0 in place: P itself is what backward
        # needs, and a copy of it is the largest tensor of a layer.
        kept = P.view(-1).index_select(0, dropped)
        zero_(P, dropped)
        ctx.save_for_backward(q, k, v, P, dropped, kept)
        return torch.baddbmm(P.new_empty(1), P, v, beta=0, alpha=ctx.factor).view(query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of query, key and value. dy: (rows, heads, queries, width)."""
        q, k, v, P, dropped, kept = ctx.saved_tensors
        d = dy.reshape(q.shape)
        unused = P.new_empty(1)  # beta=0 below: nothing is added
        dv = torch.baddbmm(unused, P.mT, d, beta=0, alpha=ctx.factor)
        dP = torch.baddbmm(unused, d, v.mT, beta=0, alpha=ctx.factor)
        zero_(dP, dropped)
        put_(P, dropped, kept)  # the derivative of the softmax needs all of it
        dS = torch.ops.aten._softmax_backward_data(dP, P, -1, P.dtype)
        dq = torch.baddbmm(unused, dS, k, beta=0, alpha=ctx.scale)
        dk = torch.baddbmm(unused, dS.mT, q, beta=0, alpha=ctx.scale)
        queries, keys = ctx.shapes
        dbias = None
        if ctx.bias is not None:
            (dtype, axes), dbias = ctx.bias, dS.view(*queries[:3], -1)
            # The sum over rows, in the bias's own type: there are many rows.
            dbias = dbias.sum(0, dtype=dtype) if axes == 3 else dbias.to(dtype)
        return dq.view(queries), dk.view(keys), dv.view(keys), None, None, None, dbias


def _scores(
    q: Tensor, k: Tensor, mask: Tensor | None, scale: float, heads: int, bias: Tensor | None
) -> Tensor:
    """Returns scale · q kᵀ + bias, (rows · heads, queries, length), −∞ where a key is masked."""
    scores = torch.baddbmm(q.new_empty(1), q, k.mT, beta=0, alpha=scale)
    of_heads = scores.view(-1, heads, *scores.shape[1:])
    if bias is not None:
        of_heads.add_(bias)
    if mask is not None:
        # Added rather than filled: masked_fill takes as long as the softmax.
        hidden = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -math.inf)
        of_heads.add_(hidden)
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


def add_norm(x: Tensor, residual: Tensor, norm: nn.LayerNorm, p: float) -> Tensor:
    """Returns LayerNorm(residual + dropout(x)), (..., d) in the residual's type."""
    if not p:
        out: Tensor = norm(x + residual)
        return out
    return _AddNorm.apply(x, residual, norm.weight, norm.bias, norm.eps, p)


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
        p = self.dropout.p if self.training else 0.0
        return add_norm(self.dense(x), residual, self.LayerNorm, p)


def fuse_sublayers(model: nn.Module) -> None:
    """Replaces each module of a dense layer, dropout and LayerNorm by a `Sublayer`."""
    for owner in list(model.modules()):
        for name, child in owner.named_children():
            # By its parts: the class has another name in each architecture.
            if {"dense", "dropout", "LayerNorm"} == {n for n, _ in child.named_children()}:
                setattr(owner, name, Sublayer(child))
