"""Refuses a method of one's own that changes the backbone in tensors that its result does not hold.

A result is stored beside the name of its backbone. If a run changed other tensors of the backbone,
nobody could make the scored model again. The suite's own methods are tested for this.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dora.adapters import result
from dora.configuration.method_class import is_released
from dora.errors import UserError
from dora.methods.base import Method

WAY_OUT = (
    "which its result does not hold, so that nobody could make the scored model again: train the "
    "tensor, or keep the change beside it (kept_A and kept_B, as PiSSA in dora/methods/lora.py)"
)


def sums(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Returns a checksum of every tensor by its name."""
    return {name: _sum(t) for name, t in tensors.items()}


def _sum(t: Tensor) -> int:
    return zlib.crc32(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def tensors_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Returns every parameter and buffer of the model by its name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


class BackboneCheck:
    """Compares a model's tensors with their checksums from before a method was attached."""

    def __init__(self, kind: type[Method], model: nn.Module) -> None:
        """Takes the checksums of the loaded model; none for a method of the suite."""
        self._kind = kind
        own = not is_released(kind)
        # With the tensors themselves, since a layer may hold one under another name afterwards.
        tensors = tensors_by_name(model).items() if own else ()
        self._loaded = [(n, t, _sum(t)) for n, t in tensors if not t.is_meta]
        self._sums: dict[str, int] = {}

    def after_attaching(self, method: Method, model: nn.Module) -> None:
        """Raises UserError if `__init__` has changed a tensor that the result does not hold."""
        present = tensors_by_name(model)
        name_of = {id(t): name for name, t in present.items()}
        held = result.tensors_of(model, method.frozen()).keys()
        for before, tensor, known in self._loaded:
            parent, _, attribute = before.rpartition(".")
            # Or a tensor that stands in its place, under its name or in a layer's base.
            places = [name_of.get(id(tensor)), before, f"{parent}.base.{attribute}"]
            now = next((name for name in places if name in present), None)
            if now is None:  # the method has taken it away
                continue
            if now not in held and _sum(present[now]) != known:
                raise UserError(f"{self._kind.__name__}.__init__ changes {now}, {WAY_OUT}")
            self._sums[now] = known
        self._loaded = []

    def before_training(self, model: nn.Module) -> None:
        """Takes the checksums anew: the tensors are on the run's device now, and may be rounded."""
        present = tensors_by_name(model)
        self._sums = sums({name: present[name] for name in self._sums if name in present})

    def after_training(self, method: Method, model: nn.Module) -> None:
        """Raises UserError if training has changed a tensor that the result does not hold."""
        present, held = tensors_by_name(model), result.tensors_of(model, method.frozen()).keys()
        for name, known in self._sums.items():
            if name not in held and (name not in present or _sum(present[name]) != known):
                raise UserError(
                    f"{self._kind.__name__} has changed {name} in training, {WAY_OUT}; noise for "
                    "a step goes into the layer's `perturbed`"
                )
