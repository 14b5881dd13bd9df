"""The one layer of every low-rank method, and what can be done to its components.

    y = W0 x + b0 + s · B diag(g) A x        A: (r, d_in)   g: (r,)   B: (d_out, r)

Component i is g_i B[:, i] A[i, :]. *Masking* sets g_i to 0 and leaves everything else, so that a gradient
may revive it; *removing* takes its row of A, column of B, g and optimizer moments away for good.

The functions on bare tensors accept any leading axes, so that many matrices of one shape, or many runs,
can be treated in one call.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dora.budget import Matrix
from dora.dropout import add_product_, draw, zeroed


def component_norms(A: Tensor, g: Tensor, B: Tensor) -> Tensor:
    """‖g_i B[:, i] A[i, :]‖_F of each component, (..., r), without forming a d_out x d_in array.

    A rank-1 matrix's norm is the product of its factors' norms. A: (..., r, d_in), g: (..., r),
    B: (..., d_out, r).
    """
    return g.abs() * torch.linalg.vector_norm(A, dim=-1) * torch.linalg.vector_norm(B, dim=-2)


def update_norm(A: Tensor, g: Tensor, B: Tensor) -> Tensor:
    """‖B diag(g) A‖_F, (...,), as sqrt(gᵀ [(A Aᵀ) ∘ (Bᵀ B)] g): O(r² (d_in + d_out)), shapes as above."""
    gram = (A @ A.mT) * (B.mT @ B)
    squared = (g.unsqueeze(-2) @ gram @ g.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    return squared.clamp_min(0).sqrt()  # rounding can leave −1e-12 where components cancel


class _Merged(torch.autograd.Function):
    """The linears that read one x, without dropout: each update is added to its weight, W + s B diag(g) A.

    That is less to write than another pass over x and y, and y and dx then come from one product each, as
    those of the bare backbone do. The merged weights are not kept for backward but made again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> tuple[Tensor, ...]:
        """x: (..., d_in), and of each linear W, b, A, B, g (or None) and s → (..., d_out) of each."""
        parts = _sixes(given)
        ctx.scales = [s for *_, s in parts]
        folded = [_fold(B, g, s) for _, _, _, B, g, s in parts]
        ys = tuple(
            F.linear(x, torch.addmm(W, sgB, A), b) for (W, b, A, *_), sgB in zip(parts, folded, strict=True)
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
        # One product over x for all linears together; what has r rows is (r, n), where it is fastest on a CPU.
        As = torch.cat([A for _, A, *_ in parts]) if len(parts) > 1 else parts[0][1]
        hs = (As @ flat.t()).split(ranks)
        dhs = torch.empty(sum(ranks), flat.shape[0], dtype=x.dtype, device=x.device)
        dx = None
        rest: list[tuple[Tensor, Tensor | None]] = []
        for (W, A, B, g, sgB), h, dh, dy, s in zip(parts, hs, dhs.split(ranks), dys, ctx.scales, strict=True):
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
    """The same with dropout D on the adapters' input, y = W x + b + s B diag(g) A D x, or in 16 bits.

    There an update would be lost in the weight's rounding. The low-rank products are accumulated into y and
    dx by the matrix products themselves; every linear has a dropout of its own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, *given: Any) -> tuple[Tensor, ...]:
        """As `_Merged`; p: the share dropped. Under autocast all products are in its type."""
        ctx.shape, ctx.dtypes = x.shape, (x.dtype, given[2].dtype)
        dtype = (
            torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
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


def _apply(x: Tensor, layers: Sequence[LowRankLinear]) -> tuple[Tensor, ...]:
    """The outputs of these layers, which hold components, for one input."""
    given = [each for q in layers for each in (q.base.weight, q.base.bias, q.A, q.B, q.g, q.scale)]
    p = layers[0].dropout if layers[0].training else 0.0
    if p or x.dtype.itemsize < 4 or torch.is_autocast_enabled(x.device.type):
        return _Beside.apply(x, p, *given)
    return _Merged.apply(x, *given)


class LowRankLinear(nn.Module):
    """A frozen linear layer with trainable rank-1 components beside it.

    `base` is frozen and kept as it is, weight and bias. `scale` is s above, a constant. `gated` says whether
    g is trained (DoRA, AdaLoRA) or fixed at 1 and absent (LoRA). `dropout` applies to the adapter's input
    only. A, B and g come zero-filled; the method sets their start values.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float, dropout: float, gated: bool) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = scale
        self.dropout = dropout
        device = base.weight.device
        self.A = nn.Parameter(torch.zeros(rank, base.in_features, device=device))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        self.g = nn.Parameter(torch.zeros(rank, device=device)) if gated else None
        self.ready: tuple[Tensor, Tensor] | None = None  # (input, output) that `Siblings` made beforehand

    @property
    def rank(self) -> int:
        """Components held, masked ones included."""
        return self.A.shape[0]

    def live(self) -> Tensor:
        """(r,) bool: components that are not masked."""
        return torch.ones_like(self.A[:, 0], dtype=torch.bool) if self.g is None else self.g != 0

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., d_in) → (..., d_out). A matrix of rank 0 costs nothing beyond its base."""
        if self.rank == 0:
            return self.base(x)
        if self.ready is not None and self.ready[0] is x:
            y, self.ready = self.ready[1], None
            return y
        return _apply(x, [self])[0]

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """(A, s B diag(g)): the update as two factors of (r, d_in) and (d_out, r), g and s inside B."""
        B = self.B if self.g is None else self.B * self.g
        return self.A.detach(), B * self.scale

    def delta(self) -> Tensor:
        """The update s B diag(g) A as a (d_out, d_in) matrix, for merging and for tests."""
        A, B = self.folded()
        return B @ A

    def factors(self) -> dict[str, nn.Parameter]:
        """The trained tensors by name: A, B and, where it is trained, g."""
        named = {"A": self.A, "B": self.B}
        return named if self.g is None else {**named, "g": self.g}


class Siblings:
    """Before a module runs, the outputs of those of its layers that read its input: q, k and v of attention.

    Each layer hands its output out once, and only for that very tensor: DeBERTa also calls query and key on
    its relative positions, which they then compute alone.
    """

    def __init__(self, layers: Sequence[LowRankLinear]) -> None:
        self.layers = list(layers)

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A forward pre-hook. An object rather than a function, so that a copied model's hook is its own."""
        layers = [layer for layer in self.layers if layer.rank]
        if args and len(layers) > 1:
            for layer, y in zip(layers, _apply(args[0], layers), strict=True):
                layer.ready = args[0], y


class Stack:
    """Layers of one shape, their factors in one tensor each, so that one call treats all of them.

    Matrix by matrix, the mathematics of a few hundred small matrices is mostly waiting for calls to begin.
    Where ranks differ, the smaller matrices are padded with components of zeros. m matrices, R the largest
    rank; both are those of the moment when the stack is made.
    """

    def __init__(self, layers: Sequence[LowRankLinear]) -> None:
        self.layers = list(layers)
        self.ranks = [layer.rank for layer in layers]
        self._real: Tensor | None = None

    @property
    def real(self) -> Tensor:
        """(m, R), 1 for a component and 0 for padding."""
        weight = self.layers[0].A
        if self._real is None or self._real.device != weight.device:  # made once: it comes from the host
            ranks = torch.tensor(self.ranks, device=weight.device).unsqueeze(1)
            self._real = (torch.arange(max(self.ranks), device=weight.device) < ranks).to(weight.dtype)
        return self._real

    def of(self, name: str) -> Tensor:
        """The factor A, (m, R, d_in), B transposed, (m, R, d_out), or g, (m, R). Gradients reach the layers."""
        return self._padded([getattr(layer, name) for layer in self.layers], name)

    def gradient_of(self, name: str) -> Tensor:
        """The same of their gradients, zeros where there is none."""
        factors = [getattr(layer, name) for layer in self.layers]
        return self._padded([torch.zeros_like(p) if p.grad is None else p.grad for p in factors], name)

    def split(self, stacked: Tensor) -> list[Tensor]:
        """(m, R, ...) → (r, ...) of each layer, without the padding; views."""
        return [part[:rank] for part, rank in zip(stacked, self.ranks, strict=True)]

    def _padded(self, tensors: list[Tensor], name: str) -> Tensor:
        if name == "B":
            tensors = [t.t() for t in tensors]
        most = max(self.ranks)
        # F.pad takes the last axis first. (pad_sequence would copy all of it once for each matrix in backward.)
        sides = (0, 0, 0) if tensors[0].dim() > 1 else (0,)
        return torch.stack([t if len(t) == most else F.pad(t, (*sides, most - len(t))) for t in tensors])


def stacks(layers: Iterable[LowRankLinear]) -> list[Stack]:
    """The layers that hold components, by shape."""
    by_shape: dict[tuple[int, ...], list[LowRankLinear]] = {}
    for layer in layers:
        if layer.rank:
            by_shape.setdefault((layer.A.shape[1], layer.B.shape[0]), []).append(layer)
    return [Stack(group) for group in by_shape.values()]


def in_order(layers: Iterable[LowRankLinear], stacked: Iterable[tuple[Stack, Tensor]]) -> list[Tensor]:
    """What each stack holds of each layer, (r, ...), in the order of `layers`; empty for one without a stack."""
    found = {
        layer: part for stack, t in stacked for layer, part in zip(stack.layers, stack.split(t), strict=True)
    }
    return [found.get(layer, layer.A.new_zeros(0)) for layer in layers]


# The axis along which each factor's components lie.
_AXIS = {"A": 0, "B": 1, "g": 0}


def adapt(
    model: nn.Module,
    matrices: Sequence[Matrix],
    ranks: Sequence[int],
    scale: float,
    dropout: float,
    gated: bool,
) -> dict[str, LowRankLinear]:
    """Puts a LowRankLinear in the place of each named linear; returns them by matrix name, in order."""
    layers = {}
    by_owner: dict[str, list[LowRankLinear]] = {}
    for matrix, rank in zip(matrices, ranks, strict=True):
        parent, _, attribute = matrix.name.rpartition(".")
        owner = model.get_submodule(parent)
        layer = LowRankLinear(getattr(owner, attribute), rank, scale, dropout, gated)
        setattr(owner, attribute, layer)
        layers[matrix.name] = layer
        by_owner.setdefault(parent, []).append(layer)
    for parent, its in by_owner.items():
        if len(its) > 1 and parent:
            model.get_submodule(parent).register_forward_pre_hook(Siblings(its))
    return layers


@torch.no_grad()
def mask(layers: Iterable[LowRankLinear], keep: Iterable[Tensor]) -> None:
    """Sets g to 0 where `keep`, (r,) bool per layer, is False. A, B, gradients and moments stay."""
    for layer, k in zip(layers, keep, strict=True):
        if layer.g is None:
            raise ValueError("a layer without g has nothing to mask")
        layer.g.mul_(k)


@torch.no_grad()
def remove(
    layers: Iterable[LowRankLinear], keep: Iterable[Tensor], optimizer: torch.optim.Optimizer | None
) -> None:
    """Takes the components where `keep` is False out of the weights and out of the optimizer's moments.

    The parameters stay the same objects with smaller data, so the optimizer's groups need no change.
    Gradients are dropped, and no graph of an earlier forward may still be alive: both have the old shapes.
    """
    for layer, k in zip(layers, keep, strict=True):
        index = k.nonzero().squeeze(1)
        for name, p in layer.factors().items():
            if optimizer is not None:
                for key, moment in optimizer.state.get(p, {}).items():
                    if moment.shape == p.shape:  # not the step counter
                        optimizer.state[p][key] = moment.index_select(_AXIS[name], index)
            p.grad = None
            p.data = p.data.index_select(_AXIS[name], index)


@torch.no_grad()
def restore(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Sets parameters to stored tensors by name, taking on their shapes: a stored rank may be smaller."""
    for name, p in parameters.items():
        p.grad = None
        p.data = tensors[name].to(device=p.device, dtype=p.dtype, copy=True)
