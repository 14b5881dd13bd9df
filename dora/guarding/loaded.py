"""Refuses a method that trains or changes tensors of the model that its result does not hold.

A result is stored beside the name of its backbone. If a run changed other tensors of the backbone,
nobody could make the scored model again. The suite's own methods are tested for this.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dora.adapters import result
from dora.configuration.method_class import is_released
from dora.errors import UserError
from dora.methods.base import Method

WAY_OUT = (
    "which its result does not hold, so that nobody could make the scored model again: train the "
    "tensor, or keep the change beside it (kept_A and kept_B, as dora.method.ResidualLinear does)"
)


def sums(model: nn.Module) -> dict[str, int]:
    """Returns a checksum of every parameter and buffer of the model by its name."""
    return {name: _sum(t) for name, t in _tensors(model).items()}


def _sum(t: Tensor) -> int:
    return zlib.crc32(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _factors(method: Method) -> dict[str, nn.Parameter]:
    """Returns all layers' factors by name. Raises UserError if a trained one has two names."""
    factors: dict[str, nn.Parameter] = {}
    names: dict[int, str] = {}
    for matrix, layer in method.layers.items():
        for factor, p in layer.factors().items():
            name = f"{matrix}.{factor}"
            if (first := names.setdefault(id(p), name)) != name and p.requires_grad:
                raise UserError(
                    f"{name} of {type(method).__name__} is the tensor {first} as well, and an adapter "
                    'stores each layer\'s own: state result = "modules", which stores it once and is '
                    "not exported, and let plan() count it once"
                )
            factors[name] = p
    return factors


class Loaded:
    """A model's tensors as they are before a method is attached, by their names and checksums."""

    def __init__(self, kind: type[Method], model: nn.Module) -> None:
        """Takes the checksums of the loaded model; none for a method of the suite."""
        self._model = model
        self._names = {name for name, _ in model.named_parameters()}
        # With the tensors themselves, since a layer may hold one under another name afterwards.
        tensors = {} if is_released(kind) else _tensors(model)
        self._tensors = [(n, t, _sum(t)) for n, t in tensors.items() if not t.is_meta]
        self._sums: dict[str, int] = {}

    def after_attaching(self, method: Method, head: Sequence[str] = ()) -> None:
        """Raises UserError if the result would lack a tensor that `__init__` trains or has changed.

        `head`: names of the head's parameters, which are trained beside the method's.
        """
        self._refuse_misplaced(method, head)
        present = _tensors(self._model)
        name_of = {id(t): name for name, t in present.items()}
        held = result.tensors_of(self._model, method.frozen()).keys()
        for before, tensor, known in self._tensors:
            parent, _, attribute = before.rpartition(".")
            # Or a tensor that stands in its place, under its name or in a layer's base.
            places = [name_of.get(id(tensor)), before, f"{parent}.base.{attribute}"]
            now = next((name for name in places if name in present), None)
            if now is None:  # the method has taken it away
                continue
            if now not in held and _sum(present[now]) != known:
                raise UserError(f"{type(method).__name__}.__init__ changes {now}, {WAY_OUT}")
            self._sums[now] = known
        self._tensors = []

    def _refuse_misplaced(self, method: Method, head: Sequence[str]) -> None:
        """Raises UserError if the result would lack a tensor that the method trains, or a factor.

        An export would leave such a tensor out without a word, and would not score as the run did.
        """
        parameters = self._model.named_parameters()
        trained = {name for name, p in parameters if p.requires_grad} - set(head)
        if method.result == "adapter":
            if not method.layers:
                raise UserError(
                    f'{type(method).__name__} has no low-rank layers, so its result is no "adapter": '
                    'state result = "weights" or "model", for tensors of the backbone, or "modules", '
                    "for those that it adds"
                )
            factors = _factors(method)
            misplaced, allowed = trained - factors.keys(), "factors of its low-rank layers"
            fixed = {name for name, p in factors.items() if not p.requires_grad}
            if lost := sorted(fixed - method.frozen().keys()) if fixed else []:
                raise UserError(
                    f"{type(method).__name__} freezes {', '.join(lost[:3])}, which its result would "
                    "lack: let frozen() name it (as in dora/methods/ffa_lora.py)"
                )
        elif method.result == "modules":  # stored by name, whatever they are
            misplaced, allowed = set(), ""
        else:
            misplaced, allowed = trained - self._names, "parameters of the backbone"
        if misplaced:
            raise UserError(
                f'{type(method).__name__} states result = "{method.result}", which holds {allowed} '
                f"alone, and trains {', '.join(sorted(misplaced)[:3])}"
            )

    def before_training(self) -> None:
        """Takes the checksums anew: the tensors are on the run's device now, and may be rounded."""
        self._sums = {n: _sum(t) for n, t in _tensors(self._model).items() if n in self._sums}

    def after_training(self, method: Method) -> None:
        """Raises UserError if training has changed a tensor that the result does not hold."""
        present = _tensors(self._model)
        held = result.tensors_of(self._model, method.frozen()).keys()
        for name, known in self._sums.items():
            if name not in held and (name not in present or _sum(present[name]) != known):
                raise UserError(
                    f"{type(method).__name__} has changed {name} in training, {WAY_OUT}; noise for "
                    "a step goes into the layer's `perturbed`"
                )
