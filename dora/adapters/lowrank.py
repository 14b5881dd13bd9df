"""The layer of every low-rank method, put into a model in the place of its linears.

    y = W0 x + b0 + s · B diag(g) A x        A: (r, d_in)   g: (r,)   B: (d_out, r)

Component i is g_i B[:, i] A[i, :]. *Masking* sets g_i to 0 and leaves everything else, so that a
gradient may revive it. *Removing* deletes its row of A, its column of B, its g and its optimizer
moments (`components.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dora.adapters.arithmetic import update, update_alone
from dora.adapters.budget import Matrix
from dora.errors import UserError

# Where nn.Module keeps a module's hooks.
_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_is_full_backward_hook",
)


def _outputs(x: Tensor, layers: Sequence[LowRankLinear]) -> tuple[Tensor, ...]:
    """Returns the outputs of these layers for one input. Every layer must hold components."""
    # Dropout and training mode are the first layer's: `adapt` gives all of them one dropout.
    given = [each for q in layers for each in q.operands()]
    return update(x, layers[0].dropout if layers[0].training else 0.0, given)


class LowRankLinear(nn.Module):
    """A frozen linear layer with trainable rank-1 components beside it.

    `base`: the linear layer, whose weight and bias are frozen. A subclass of nn.Linear may pack its
    weight (quantised ones do): it is called, and its weight is not read. `scale`: s above, a
    constant. `gated`: g is trained (DoRA, AdaLoRA); without it g is fixed at 1 and absent (LoRA).
    `dropout`: the share of the adapter's input that is dropped in training. A, B and g are
    zero-filled; the method sets their start values.

    `kept_A` (k, d_in) and `kept_B` (d_out, k) are the frozen factors of earlier components, g and s
    folded into `kept_B`. They are None until a method renews its factors.
    """

    kept_A: Tensor | None
    kept_B: Tensor | None

    def __init__(
        self, base: nn.Linear, rank: int, scale: float, dropout: float, gated: bool
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.packed = type(base) is not nn.Linear
        self.scale = scale
        self.dropout = dropout
        # On the CPU, wherever the base is: a method draws their start values there. In 32 bits, in
        # 64 where the base has them. Neither is left to PyTorch's defaults, which a user may set.
        wide = torch.float64 if base.weight.dtype == torch.float64 else torch.float32
        zeros = partial(torch.zeros, device="cpu", dtype=wide)
        self.A = nn.Parameter(zeros(rank, base.in_features))
        self.B = nn.Parameter(zeros(base.out_features, rank))
        self.g = nn.Parameter(zeros(rank)) if gated else None
        # `forward` reads the base's weight and does not call the base: hooks on it are the layer's.
        for table in _HOOKS:
            setattr(self, table, getattr(base, table))
        # Absent from the state dict while they are None.
        self.register_buffer("kept_A", None)
        self.register_buffer("kept_B", None)
        # A weight that this step's training passes read in place of the base's, (d_out, d_in); None
        # for the base's own.
        self.perturbed: Tensor | None = None
        # (kept_B, the versions of kept_A and kept_B, which a loaded state is written over, the base's
        # weight with these components in it) for `frozen_weight`.
        self._merged: tuple[Tensor, tuple[int, int], Tensor] | None = None
        # Whether `Siblings` may compute this layer's output with those of others, by `operands`.
        self.together = not self.packed
        # (input, output) that `Siblings` has computed before this layer is called.
        self.ready: tuple[Tensor, Tensor] | None = None

    # Some models ask a linear for its weight's type or shape, and find the base's here. A product
    # with this weight outside the layer leaves the update out.
    @property
    def weight(self) -> Tensor:
        """The base's weight, (d_out, d_in)."""
        return self.base.weight

    def unpacked(self) -> Tensor:
        """Returns the base's weight, (d_out, d_in); raises UserError if the base packs it."""
        if self.packed:
            raise UserError(
                f"{type(self.base).__name__} packs its weight, which this computes with: load the "
                "model without quantisation"
            )
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base's bias, (d_out,), or None."""
        return self.base.bias

    @property
    def in_features(self) -> int:
        """d_in."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """d_out."""
        return self.base.out_features

    @property
    def rank(self) -> int:
        """The number of trained components, masked ones included."""
        return self.A.shape[0]

    @property
    def magnitude(self) -> Tensor | None:
        """The norms of the whole weight's rows, (d_out,), where they are trained apart; else None."""
        return None

    @property
    def kept_rank(self) -> int:
        """The number of frozen components kept beside the trained ones."""
        return 0 if self.kept_A is None else self.kept_A.shape[0]

    def live(self) -> Tensor:
        """Returns (r,) bool, True for each trained component that is not masked."""
        return torch.ones_like(self.A[:, 0], dtype=torch.bool) if self.g is None else self.g != 0

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., d_out) for x of shape (..., d_in)."""
        if self.packed:
            if self.training and self.perturbed is not None:
                self.unpacked()  # raises: there is no weight to put it in the place of
            y = self.base.forward(x)  # hooks on it are the layer's
            if self.rank:
                p = self.dropout if self.training else 0.0
                y = y + update_alone(x, p, self.operands()).to(y.dtype)
            return self.beside_kept(x, y)
        if self.rank == 0:  # costs nothing beyond the backbone's own layer
            return self.beside_kept(x, F.linear(x, self.frozen_weight(), self.base.bias))
        # By identity: a layer may also be called on another tensor than the module's input.
        # Returned once, so that the output is not kept alive until the next step.
        if self.ready is not None and self.ready[0] is x:
            y, self.ready = self.ready[1], None
            return y
        return self.beside_kept(x, _outputs(x, [self])[0])

    def operands(self) -> tuple[Tensor | float | None, ...]:
        """Returns the six values that `arithmetic.update` takes: W, b, A, B, g (or None) and s."""
        return self.frozen_weight(), self.base.bias, self.A, self.B, self.g, self.scale

    def frozen_weight(self) -> Tensor:
        """Returns the frozen weight, (d_out, d_in), with the kept components in it where it can.

        A layer with kept components then holds its weight twice. In 16 bits they would be lost in
        the weight's rounding, and a packed weight takes none; `beside_kept` adds them then.
        """
        if self.training and self.perturbed is not None:
            return self.perturbed
        W = self.base.weight
        if self.kept_A is None or self.kept_B is None or not self._takes_kept:
            return W
        versions = self.kept_A._version, self.kept_B._version
        before = self._merged
        if before is None or before[0] is not self.kept_B or before[1] != versions:
            # From the base's weight each time: a resumed run, which has no other, gets equal bits.
            # Not in inference mode, which an evaluation may be in: training reads the tensor, too.
            with torch.inference_mode(False), torch.no_grad():
                merged = torch.addmm(W, self.kept_B, self.kept_A)
            self._merged = before = self.kept_B, versions, merged
        return before[2]

    @property
    def _takes_kept(self) -> bool:
        """Whether the kept components can be added to the weight."""
        return not self.packed and self.base.weight.dtype.itemsize >= 4

    def beside_kept(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns y plus the kept components' output for x, unless `frozen_weight` has them."""
        if self.kept_A is None or self.kept_B is None or self._takes_kept:
            return y
        A, B = self.kept_A.to(x.dtype), self.kept_B.to(x.dtype)  # a backbone may have 16 bits
        return y + F.linear(F.linear(x, A), B)

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """Returns the trained update as (A, s B diag(g)): (r, d_in) and (d_out, r)."""
        B = self.B if self.g is None else self.B * self.g
        return self.A.detach(), B * self.scale

    @torch.no_grad()
    def stored(self) -> tuple[Tensor, Tensor]:
        """Returns the whole update as two factors, (k, d_in) and (d_out, k), g and s folded in.

        Kept components come first, then the live ones; masked ones are left out.
        """
        A, B = self.folded()
        live = self.live()
        A, B = A[live], B[:, live]
        if self.kept_A is None or self.kept_B is None:
            return A, B
        return torch.cat([self.kept_A, A]), torch.cat([self.kept_B, B], dim=1)

    def delta(self) -> Tensor:
        """Returns the whole update as a (d_out, d_in) matrix, for tests."""
        A, B = self.stored()
        return B @ A

    def factors(self) -> dict[str, nn.Parameter]:
        """Returns the trained tensors by name: A, B and, in a gated layer, g."""
        named = {"A": self.A, "B": self.B}
        return named if self.g is None else {**named, "g": self.g}

    def kept(self) -> dict[str, Tensor]:
        """Returns the frozen factors by name; empty if there are none."""
        if self.kept_A is None or self.kept_B is None:
            return {}
        return {"kept_A": self.kept_A, "kept_B": self.kept_B}


class Siblings:
    """Computes the outputs of sibling layers (q, k and v of attention) before their module runs.

    Each layer returns its output once, and only for the module's own input: DeBERTa also calls
    query and key on its distances, which each of them then computes alone.
    """

    def __init__(self, layers: Sequence[LowRankLinear]) -> None:
        self.layers = list(layers)

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Runs as a forward pre-hook of `module`."""
        # An object rather than a closure: a deep copy of the model copies it with its layers.
        layers = [layer for layer in self.layers if layer.rank]
        if args and len(layers) > 1:
            for layer, y in zip(layers, _outputs(args[0], layers), strict=True):
                layer.ready = args[0], layer.beside_kept(args[0], y)


def adapt(
    model: nn.Module,
    matrices: Sequence[Matrix],
    ranks: Sequence[int],
    scale: float,
    dropout: float,
    gated: bool,
    layer_type: type[LowRankLinear] = LowRankLinear,
) -> dict[str, LowRankLinear]:
    """Replaces each named linear by a LowRankLinear; returns these by matrix name, in order.

    `ranks`: one for each matrix; the other arguments are those of every `LowRankLinear`.
    `layer_type`: the class of the layers, made with the same arguments.
    """
    layers = {}
    by_reader: dict[str, list[LowRankLinear]] = {}
    for matrix, rank in zip(matrices, ranks, strict=True):
        parent, _, attribute = matrix.name.rpartition(".")
        owner = model.get_submodule(parent)
        layer = layer_type(getattr(owner, attribute), rank, scale, dropout, gated)
        setattr(owner, attribute, layer)
        layers[matrix.name] = layer
        # A faster module in the reader's place may give some of its linears another input.
        own = attribute in getattr(owner, "own_input", ())
        if matrix.input_of and layer.together and not own:
            by_reader.setdefault(matrix.input_of, []).append(layer)
    for reader, its in by_reader.items():
        if len(its) > 1:
            model.get_submodule(reader).register_forward_pre_hook(Siblings(its))
    return layers


def end_noise(layers: Iterable[LowRankLinear]) -> None:
    """Takes each layer's `perturbed` weight away, when a step has no more training passes."""
    for layer in layers:
        layer.perturbed = None
