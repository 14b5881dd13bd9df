"""What makes up a run's result: one answer, used wherever a run is saved, restored, started from or
handed on.

The result is every trained tensor (adapters, head, or whatever else the method trains) and every
frozen tensor that the method adds to the backbone. A fresh model with the same start, given these
tensors, computes the same logits bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def tensors_of(model: nn.Module, frozen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of the result by the names they have in `model`; they are the live ones,
    not copies.

    `frozen`: the method's own frozen tensors (`Method.frozen`), by name.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {**trained, **frozen}


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns copies on the CPU."""
    return {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}


@torch.no_grad()
def restore(model: nn.Module, frozen: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Puts stored tensors in the place of the model's, taking on their shapes: a stored rank may be
    smaller.

    `frozen`: the method's frozen tensors as they are now; one that is not among `tensors` had not
    been made when these were stored, and is taken away. Parameters stay the same objects, so an
    optimizer's groups need no change. Raises KeyError for a name that the model does not have.
    """
    for name in frozen.keys() - tensors.keys():
        owner, attribute = _place(model, name)
        setattr(owner, attribute, None)
    for name, stored in tensors.items():
        owner, attribute = _place(model, name)
        held = getattr(owner, attribute)
        if isinstance(held, nn.Parameter):
            held.grad = None
            held.data = stored.to(device=held.device, dtype=held.dtype, copy=True)
        else:  # a buffer, which a fresh model may not have yet
            device = next(model.parameters()).device
            setattr(owner, attribute, stored.to(device=device, copy=True))


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Returns the module that holds a tensor of this dotted name, and the attribute. Raises
    KeyError.
    """
    parent, _, attribute = name.rpartition(".")
    try:
        owner = model.get_submodule(parent)
    except AttributeError as e:
        raise KeyError(name) from e
    if attribute not in owner._parameters and attribute not in owner._buffers:
        raise KeyError(name)
    return owner, attribute
