"""Bottleneck adapters: small non-linear modules between the frozen ones of an encoder layer.

    f(z) = U φ(D z + b_D) + b_U          D: (m, d), U: (d, m)

An adapter stands at the end of a half layer, which computes LayerNorm(h + x) without it: h is the
output of a dense layer after its dropout, x the residual. With it:

    sequential    LayerNorm(h + f(h) + x)
    normed first  LayerNorm(h + f(LayerNorm(h + x)) + x)

The bottleneck m takes the place of a rank in plans and records: a unit of it costs 2d + 1
parameters, and each adapter d more, its b_U. An adapter is not linear in its input, so it cannot be
merged into a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dora.adapters.budget import Budget, Matrix
from dora.adapters.plan import Plan, equal_ranks

# By their names in the `adapters` library. Its gelu is the exact one, as PyTorch's is.
ACTIVATIONS: dict[str, type[nn.Module]] = {"swish": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU}


class Bottleneck(nn.Module):
    """One adapter, f above. `dropout`: the share of its output that is dropped in training."""

    def __init__(self, width: int, size: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(width, size)
        self.activation = ACTIVATIONS[activation]()
        self.up = nn.Linear(size, width)
        self.dropout = nn.Dropout(dropout)

    @property
    def size(self) -> int:
        """The bottleneck m."""
        return self.down.out_features

    def forward(self, z: Tensor) -> Tensor:
        """Returns f(z), (..., d), for z of shape (..., d); each token by itself."""
        out: Tensor = self.dropout(self.up(self.activation(self.down(z))))
        return out


class AdaptedSublayer(nn.Module):
    """The end of an encoder's half layer with an adapter in it.

    Takes the modules of Transformers' own module, or of the faster one in its place, under their
    names, so that parameters keep theirs. `norm_first`: the adapter reads LayerNorm(h + x), not h.
    """

    def __init__(self, of: Any, adapter: Bottleneck, norm_first: bool) -> None:
        super().__init__()
        self.dense, self.dropout, self.LayerNorm = of.dense, of.dropout, of.LayerNorm
        # `speed_up` may have given the last layer's module a hook that passes first tokens alone.
        self._forward_pre_hooks = of._forward_pre_hooks
        self.adapter, self.norm_first = adapter, norm_first

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Returns (..., d) for x of shape (..., d_in); residual: (..., d)."""
        return _end(self, self.dropout(self.dense(x)), residual)


class AdaptedAttention(nn.Module):
    """MPNet's first half of an encoder layer, attention included, with an adapter at its end.

    Takes the modules of Transformers' own module, or of the faster one in its place, under their
    names. `norm_first`: as of `AdaptedSublayer`.
    """

    def __init__(self, of: Any, adapter: Bottleneck, norm_first: bool) -> None:
        super().__init__()
        self.attn, self.dropout, self.LayerNorm = of.attn, of.dropout, of.LayerNorm
        self.adapter, self.norm_first = adapter, norm_first

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Returns (batch, queries, d), and what else the attention returns.

        x: (batch, length, d); the other arguments are the attention's.
        """
        out, *rest = self.attn(x, *args, **kwargs)
        # In the last layer the faster attention computes first tokens alone.
        residual = self.attn.kept(x) if hasattr(self.attn, "kept") else x
        return _end(self, self.dropout(out), residual), *rest


def _end(half: AdaptedSublayer | AdaptedAttention, h: Tensor, residual: Tensor) -> Tensor:
    """Returns a half layer's output, (..., d), for h and the residual of that shape."""
    total = h + residual
    z = half.LayerNorm(total) if half.norm_first else h
    out: Tensor = half.LayerNorm(total + half.adapter(z))
    return out


def insert(
    model: nn.Module,
    places: Sequence[Matrix],
    ends: Sequence[str],
    sizes: Sequence[int],
    activation: str,
    dropout: float,
    norm_first: bool,
) -> dict[str, Bottleneck]:
    """Puts an adapter behind each dense layer that `places` names; returns them by its name.

    `ends`: the module in which the half layer of each ends; `sizes`: its bottleneck m. The other
    arguments are those of every adapter.
    """
    adapters = {}
    for matrix, end, size in zip(places, ends, sizes, strict=True):
        of = model.get_submodule(end)
        adapter = Bottleneck(matrix.d_out, size, activation, dropout)
        kind = AdaptedAttention if hasattr(of, "attn") else AdaptedSublayer
        model.set_submodule(end, kind(of, adapter, norm_first))
        adapters[matrix.name] = adapter
    return adapters


def adapter_at(dense: Matrix, norms: int = 0) -> Matrix:
    """Returns the place of an adapter behind a dense layer, with what it costs.

    `norms`: parameters of LayerNorms that are trained beside the adapters and counted with this
    one.
    """
    d = dense.d_out
    return Matrix(dense.name, d, d, component_cost=2 * d + 1, fixed_cost=d + norms)


@dataclass(frozen=True)
class BottleneckPlan(Plan):
    """A plan whose matrices are the places of adapters, and whose ranks are their bottlenecks."""

    def describe(self) -> list[str]:
        """Returns the plan in plain lines: how many adapters of which bottleneck there are."""
        counts = {size: self.start.count(size) for size in sorted({*self.start}, reverse=True)}
        sizes = [f"{count} of bottleneck {size}" for size, count in counts.items()]
        norms = sum(m.fixed_cost - m.d_out for m in self.matrices)
        beside = f", {norms:,} of them LayerNorms'" if norms else ""
        return [
            f"adapters: {' and '.join(sizes)}",
            f"stored:   {self.start_params:,} parameters{beside} (budget {self.budget})",
        ]


def bottleneck_plan(budget: Budget, places: tuple[Matrix, ...], units: int) -> BottleneckPlan:
    """Returns a plan of adapters with one bottleneck, or with two that differ by 1.

    An average rank r stands for the bottleneck `units` · r, by which papers pair adapters with
    low-rank methods; the parameters are then not equal. A number of parameters gives the largest
    bottleneck that all can have, and a unit more to the first ones. Raises ValueError where the
    budget does not fit.
    """
    least = sum(place.cost + place.fixed_cost for place in places)
    if budget.params is not None and budget.params < least:
        raise ValueError(
            f"budget={budget} is less than {len(places)} adapters with a bottleneck of 1, the "
            f"smallest of this model ({least:,} parameters)"
        )
    if budget.rank is not None:
        sizes = (units * budget.rank,) * len(places)
    else:
        sizes = equal_ranks(budget, places)
    widest = min(place.d_out for place in places)
    if max(sizes) > widest:
        most = sum(widest * place.cost + place.fixed_cost for place in places)
        raise ValueError(
            f"budget={budget} is larger than this model: it gives adapters a bottleneck of "
            f"{max(sizes)}, and the model is {widest} wide; at most r{widest // units} or "
            f"{most:,} parameters fit"
        )
    target = sum(sizes) if budget.params is None else budget.params
    return BottleneckPlan(budget, places, sizes, sizes, target, dealt=True)
