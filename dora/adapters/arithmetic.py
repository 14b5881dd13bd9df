"""Linears with low-rank updates as single autograd functions: y_i = W_i x + b_i + s_i B_i diag(g_i)
A_i D_i x.

Several linears that read one x (the q, k and v of attention) are one call. What is written here is
what autograd would find, with the least traffic: no update of its own size beside x and y, nothing
kept that is cheap to make again. Each linear is given as the six W, b, A, B, g (or None) and s.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dora.adapters.dropout import add_product_, draw, zeroed


def update(x: Tensor, p: float, given: Sequence[Any]) -> tuple[Tensor, ...]:
    """The outputs, (..., d_out) each, for x of (..., d_in).

    p: the share of x's entries dropped before A, for each linear anew; `given`: the six of each
    linear.
    """
    if p or x.dtype.itemsize < 4 or torch.is_autocast_enabled(x.device.type):
        return _Beside.apply(x, p, *given)
    return _Merged.apply(x, *given)


class _Merged(torch.autograd.Function):
    """The linears that read one x, without dropout: each update is added to its weight, W + s B
    diag(g) A.

    That is less to write than another pass over x and y, and y and dx then come from one product
    each, as those of the bare backbone do. The merged weights are not kept for backward but made
    again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> tuple[Tensor, ...]:
        """x: (..., d_in), and of each linear W, b, A, B, g (or None) and s → (..., d_out) of each."""
        parts = _sixes(given)
        ctx.scales = [s for *_, s in parts]
        folded = [_fold(B, g, s) for _, _, _, B, g, s in parts]
        ys = tuple(
            F.linear(x, torch.addmm(W, sgB, A), b)
            for (W, b, A, *_), sgB in zip(parts, folded, strict=True)
        )
        saved = [(W, A, B, g, sgB) for (W, _, A, B, g, _), sgB in zip(parts, folded, strict=True)]
        ctx.save_for_backward(x, *itertools.chain(*saved))
        return ys

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        """dys: (..., d_out) of each linear → gradients in the order of forward's arguments."""
        x, *saved = ctx.saved_tensors
        flat = x.reshape(-1, x.shape[-1])
        parts = [saved[i : i + 5] for i in range(0, len(saved), 5)]
        ranks = [A.shape[0] for _, A, *_ in parts]
        # One product over x for all linears together; what has r rows is (r, n), where it is
        # fastest on a CPU.
        As = torch.cat([A for _, A, *_ in parts]) if len(parts) > 1 else parts[0][1]
        hs = (As @ flat.t()).split(ranks)
        dhs = torch.empty(sum(ranks), flat.shape[0], dtype=x.dtype, device=x.device)
        dx = None
        rest: list[tuple[Tensor, Tensor | None]] = []
        for (W, A, B, g, sgB), h, dh, dy, s in zip(
            parts, hs, dhs.split(ranks), dys, ctx.scales, strict=True
        ):
            dy = dy.reshape(-1, dy.shape[-1])
            if ctx.needs_input_grad[0]:
                merged = torch.addmm(W, sgB, A)
                dx = dy @ merged if dx is None else dx.addmm_(dy, merged)
            torch.mm(sgB.t(), dy.t(), out=dh)
            rest.append(_unfold(h @ dy, B, g, s))
        dAs = (dhs @ flat).split(ranks)
        grads = [(None, None, dA, dB, dg, None) for dA, (dB, dg) in zip(dAs, rest, strict=True)]
        return None if dx is None else dx.view(x.shape), *itertools.chain(*grads)


class _Beside(torch.autograd.Function):
    """The same with dropout D on the adapters' input, y = W x + b + s B diag(g) A D x, or in 16
    bits.

    There an update would be lost in the weight's rounding. The low-rank products are accumulated
    into y and dx by the matrix products themselves; every linear has a dropout of its own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, *given: Any) -> tuple[Tensor, ...]:
        """As `_Merged`; p: the share dropped. Under autocast all products are in its type."""
        ctx.shape, ctx.dtypes = x.shape, (x.dtype, given[2].dtype)
        dtype = (
            torch.get_autocast_dtype(x.device.type)
            if torch.is_autocast_enabled(x.device.type)
            else x.dtype
        )
        x = x.reshape(-1, x.shape[-1]).to(dtype)
        ys, ctx.scales, saved = [], [], []
        for W, b, A, B, g, s in _sixes(given):
            s /= 1 - p  # what dropout leaves is scaled up: here, in one number
            W, A, sgB = W.to(dtype), A.to(dtype), _fold(B, g, s).to(dtype)
            y = F.linear(x, W, None if b is None else b.to(dtype))
            dropped = draw(x, p) if p else None
            inside = x if dropped is None else zeroed(x, dropped)
            h = A @ inside.t()  # (r, n)
            y.addmm_(h.t(), sgB.t())
            ys.append(y.view(*ctx.shape[:-1], -1))
            ctx.scales.append(s)
            saved += [W, A, B, g, sgB, h, inside, dropped]
        ctx.save_for_backward(*saved)
        return tuple(ys)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        """As `_Merged`'s."""
        saved = ctx.saved_tensors
        of_input, of_factors = ctx.dtypes
        dx = None
        grads: list[Tensor | None] = []
        for i, (dy, s) in enumerate(zip(dys, ctx.scales, strict=True)):
            W, A, B, g, sgB, h, inside, dropped = saved[8 * i : 8 * i + 8]
            dy = dy.reshape(-1, dy.shape[-1])
            dh = sgB.t() @ dy.t()  # (r, n)
            dB, dg = _unfold((h @ dy).to(of_factors), B, g, s)
            grads += [None, None, (dh @ inside).to(of_factors), dB, dg, None]
            if ctx.needs_input_grad[0]:
                dx = dy @ W if dx is None else dx.addmm_(dy, W)
                if dropped is None:
                    dx.addmm_(dh.t(), A)
                else:
                    add_product_(dx, dh.t(), A, dropped)
        return None if dx is None else dx.view(ctx.shape).to(of_input), None, *grads


def _sixes(given: Sequence[Any]) -> list[Sequence[Any]]:
    return [given[i : i + 6] for i in range(0, len(given), 6)]


def _fold(B: Tensor, g: Tensor | None, s: float) -> Tensor:
    """s B diag(g): g and s go with B, which is smaller than x and y."""
    return B * s if g is None else B * (g * s)


def _unfold(G: Tensor, B: Tensor, g: Tensor | None, s: float) -> tuple[Tensor, Tensor | None]:
    """(dB, dg) from the gradient of s B diag(g), transposed: (r, d_out), which is overwritten."""
    if g is None:
        return G.mul_(s).t(), None
    dg = (G * B.t()).sum(1).mul_(s)
    return G.mul_((g * s).unsqueeze(1)).t(), dg
