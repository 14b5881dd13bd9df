"""Linears with low-rank updates as single autograd functions.

    y_i = W_i x + b_i + s_i B_i diag(g_i) A_i D_i x          D_i: dropout

Several linears that read one x (q, k and v of attention) are one call. The gradients written here
are those that autograd would find, with less memory traffic: no tensor as large as x or y is made
for the update, and nothing is kept for backward that is cheap to compute again. Each linear is
passed as six values: W, b, A, B, g (or None) and s. A, B and g get gradients, W, b and s do not.
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
from dora.errors import UserError


def update(x: Tensor, p: float, given: Sequence[Any]) -> tuple[Tensor, ...]:
    """Returns the outputs of all linears, (..., d_out) each, for x of shape (..., d_in).

    p: the probability that an entry of x is dropped before A, drawn anew for each linear. `given`:
    the six values of each linear, one after the other. Raises UserError if a W, b or s requires a
    gradient: it would get none.
    """
    if torch.is_grad_enabled():
        _refuse_trained(given)
    # Merging needs 32 bits, since in 16 the update would be lost in the weight's rounding, and no
    # dropout, which belongs to the update's input alone.
    if p or x.dtype.itemsize < 4 or torch.is_autocast_enabled(x.device.type):
        return _Beside.apply(x, p, *given)
    rows = x.numel() // x.shape[-1]
    if x.device.type == "cpu" and rows < _enough_rows(*given[0].shape):
        return _Beside.apply(x, p, *given)
    return _Merged.apply(x, *given)


def update_alone(x: Tensor, p: float, given: Sequence[Any]) -> Tensor:
    """Returns s B diag(g) A D x, (..., d_out), for a linear that computes W x + b by itself.

    x, p and `given` are those of `update`, for one linear. The products are in the type of A, as in
    PEFT, unless autocast says another.
    """
    _, _, A, B, g, s = given
    return F.linear(F.linear(F.dropout(x.to(A.dtype), p), A), _fold(B, g, s))


def _refuse_trained(given: Sequence[Any]) -> None:
    """Raises UserError if a W, b or s requires a gradient."""
    for at, name in ((0, "weight"), (1, "bias"), (5, "scale")):
        if any(isinstance(t, Tensor) and t.requires_grad for t in given[at::6]):
            raise UserError(
                f"a {name} that a low-rank layer multiplies with requires a gradient and would get "
                "none: of what operands() returns only A, B and g are trained; let the layer's "
                f"forward() add what trains the {name} (docs/adding-a-method.md)"
            )


def _enough_rows(d_out: int, d_in: int) -> float:
    """Returns the number of rows of x from which merging is faster than the update beside it.

    Merging costs passes over the weight, the other way passes over x and y. On a CPU they are equal
    at 800 rows for 384 x 384 and at 1,200 for 384 x 1,536 (one thread, rank 12).
    """
    return 4 * d_out * d_in / (d_out + d_in)


class _Merged(torch.autograd.Function):
    """Adds each update to its weight, W + s B diag(g) A, and multiplies once; without dropout.

    Merging writes less than another pass over x and y would, and y and dx then take one product
    each, as in the bare backbone. Backward merges again instead of keeping the merged weights.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> tuple[Tensor, ...]:
        """Returns (..., d_out) for each linear. x: (..., d_in), `given`: six values a linear."""
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
        """Returns gradients in the order of forward's arguments. dys: (..., d_out) of each linear.

        With h = A x and dh = s diag(g) Bᵀ dy: dx = Σ (W + s B diag(g) A)ᵀ dy, dA = dh xᵀ, and dB
        and dg follow from dy hᵀ (`_unfold`).
        """
        x, *saved = ctx.saved_tensors
        flat = x.reshape(-1, x.shape[-1])
        parts = [saved[i : i + 5] for i in range(0, len(saved), 5)]
        ranks = [A.shape[0] for _, A, *_ in parts]
        # One product over x for all linears together. h and dh are stored as (r, n), not (n, r): a
        # CPU's products are fastest that way.
        hs = (_joined([A for _, A, *_ in parts]) @ flat.t()).split(ranks)
        dhs = torch.empty(sum(ranks), flat.shape[0], dtype=x.dtype, device=x.device)
        dx = None
        rest: list[tuple[Tensor, Tensor | None]] = []
        for (W, A, B, g, sgB), h, dh, dy, s in zip(
            parts, hs, dhs.split(ranks), dys, ctx.scales, strict=True
        ):
            dy = dy.reshape(-1, dy.shape[-1])
            if ctx.needs_input_grad[0]:  # not in the first adapted layer: nothing below is trained
                merged = torch.addmm(W, sgB, A)
                dx = dy @ merged if dx is None else dx.addmm_(dy, merged)
            torch.mm(sgB.t(), dy.t(), out=dh)
            rest.append(_unfold(h @ dy, B, g, s))
        dAs = (dhs @ flat).split(ranks)
        grads = [(None, None, dA, dB, dg, None) for dA, (dB, dg) in zip(dAs, rest, strict=True)]
        return None if dx is None else dx.view(x.shape), *itertools.chain(*grads)


class _Beside(torch.autograd.Function):
    """Computes the update beside the weight: with dropout D, in 16 bits, or for few rows of x.

    y = W x + b + s B diag(g) A D x. The matrix products themselves add the low-rank terms and the
    bias to y and dx (addmm), which saves a pass over each. Every linear draws its own dropout for
    its input; without dropout the linears share the products over x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, *given: Any) -> tuple[Tensor, ...]:
        """Returns (..., d_out) for each linear, as `_Merged` does; p: the share dropped."""
        # Autocast does not reach inside an autograd function, so its type is applied by hand.
        dtype = x.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        parts = _sixes(given)
        ctx.shape, ctx.dtypes, ctx.p = x.shape, (x.dtype, given[2].dtype), p
        # Dropout scales the entries that stay by 1 / (1 − p): one number here, no pass over x.
        ctx.scales = [s / (1 - p) for *_, s in parts]
        x = x.reshape(-1, x.shape[-1]).to(dtype)
        A = _joined([part[2] for part in parts]).to(dtype)
        ctx.ranks = [part[2].shape[0] for part in parts]
        dropped = [draw(x, p) for _ in parts] if p else []
        inside = [zeroed(x, at) for at in dropped] or [x]
        if p:
            hs = [each @ i.t() for each, i in zip(A.split(ctx.ranks), inside, strict=True)]
        else:
            hs = list((A @ x.t()).split(ctx.ranks))
        ones = x.new_ones(1, x.shape[0])
        ys, saved = [], []
        for (W, b, _, B, g, _), h, s in zip(parts, hs, ctx.scales, strict=True):
            W, sgB = W.to(dtype), _fold(B, g, s).to(dtype)
            y = F.linear(x, W)
            saved += [W, B, g, sgB, h]
            if b is not None:
                # The bias is one more component, of a constant input: F.linear would copy it into
                # every row of y first.
                h, sgB = torch.cat([h, ones]), torch.cat([sgB, b.to(dtype).unsqueeze(1)], 1)
            y.addmm_(h.t(), sgB.t())
            ys.append(y.view(*ctx.shape[:-1], y.shape[-1]))  # not -1: x may be empty
        ctx.save_for_backward(A, *inside, *dropped, *saved)
        return tuple(ys)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        """Returns gradients in the order of forward's arguments, as `_Merged` does."""
        n = len(dys)
        A, *saved = ctx.saved_tensors
        count = n if ctx.p else 1
        inside, saved = saved[:count], saved[count:]
        dropped, saved = (saved[:n], saved[n:]) if ctx.p else ([], saved)
        parts = [saved[i : i + 5] for i in range(0, len(saved), 5)]
        of_input, of_factors = ctx.dtypes
        dhs = torch.empty(sum(ctx.ranks), inside[0].shape[0], dtype=A.dtype, device=A.device)
        dh, dys = dhs.split(ctx.ranks), tuple(dy.reshape(-1, dy.shape[-1]) for dy in dys)
        rest: list[tuple[Tensor, Tensor | None]] = []
        for (_, B, g, sgB, h), each, dy, s in zip(parts, dh, dys, ctx.scales, strict=True):
            torch.mm(sgB.t(), dy.t(), out=each)
            rest.append(_unfold((h @ dy).to(of_factors), B, g, s))
        if ctx.p:
            dA = [(each @ i).to(of_factors) for each, i in zip(dh, inside, strict=True)]
        else:
            dA = list((dhs @ inside[0]).to(of_factors).split(ctx.ranks))
        dx = None
        if ctx.needs_input_grad[0]:  # not in the first adapted layer: nothing below is trained
            dx = _sum_of_products([(dy, W) for dy, (W, *_) in zip(dys, parts, strict=True)])
            if ctx.p:  # a dropped entry of x reached y through W alone
                for each, factor, at in zip(dh, A.split(ctx.ranks), dropped, strict=True):
                    add_product_(dx, each.t(), factor, at)
            else:
                dx.addmm_(dhs.t(), A)
            dx = dx.view(ctx.shape).to(of_input)
        grads = [(None, None, a, dB, dg, None) for a, (dB, dg) in zip(dA, rest, strict=True)]
        return dx, None, *itertools.chain(*grads)


def _joined(factors: Sequence[Tensor]) -> Tensor:
    """Returns the factors A of several linears as one, (Σ r, d_in)."""
    return torch.cat(list(factors)) if len(factors) > 1 else factors[0]


def _sum_of_products(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Returns the sum of the products; each is added to the one before as it is computed."""
    (left, right), *others = pairs
    total = left @ right
    for left, right in others:
        total.addmm_(left, right)
    return total


def _sixes(given: Sequence[Any]) -> list[Sequence[Any]]:
    """Splits flat arguments into six values a linear: autograd functions take no nested ones."""
    return [given[i : i + 6] for i in range(0, len(given), 6)]


def _fold(B: Tensor, g: Tensor | None, s: float) -> Tensor:
    """Returns s B diag(g), (d_out, r)."""
    # Folded into B rather than into h: B is smaller than x and y.
    return B * s if g is None else B * (g * s)


def _unfold(G: Tensor, B: Tensor, g: Tensor | None, s: float) -> tuple[Tensor, Tensor | None]:
    """Returns (dB, dg) from `G`, the gradient of s B diag(g), transposed, (r, d_out).

    dB = s Gᵀ diag(g), dg_i = s Σ_j G_ij B_ji. G is overwritten.
    """
    if g is None:
        return G.mul_(s).t(), None
    dg = (G * B.t()).sum(1).mul_(s)
    return G.mul_((g * s).unsqueeze(1)).t(), dg
