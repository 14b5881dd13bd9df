"""A run's result: the tensors that are saved, restored, started from and exported.

The result is every trained tensor (adapters, head, or whatever else the method trains) and every
frozen tensor that the method adds to the backbone. A fresh model of the same backbone, given these
tensors, computes the same logits bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dora.adapters.resizing import set_data


def tensors_of(model: nn.Module, frozen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of the result by their names in `model`; no copies.

    `frozen`: the method's own frozen tensors (`Method.frozen`), by name.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {**trained, **frozen}


def as_stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns these tensors as safetensors takes them: on the CPU, and each in memory of its own.

    Layers may share a tensor. Only one that is in the memory of another is copied, since a whole
    model may be among them.
    """
    stored: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, t in tensors.items():
        # In the order of its shape: a factor is often a view.
        held = t.detach().cpu().contiguous()
        place = held.untyped_storage().data_ptr()
        stored[name] = held.clone() if place in taken else held
        taken.add(place)
    return stored


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns copies of these tensors on the CPU."""
    return {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}


@torch.no_grad()
def restore(model: nn.Module, frozen: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Replaces the model's tensors by stored ones, whose ranks may be other than the present ones.

    `frozen`: the method's frozen tensors as they are now. One of them that is not among `tensors`
    did not exist when these were stored, and is removed. Raises KeyError for a name that the model
    does not have.
    """
    for name in frozen.keys() - tensors.keys():
        owner, attribute = _place(model, name)
        setattr(owner, attribute, None)
    for name, stored in tensors.items():
        owner, attribute = _place(model, name)
        held = getattr(owner, attribute)
        if isinstance(held, nn.Parameter):
            set_data(held, stored.to(device=held.device, dtype=held.dtype, copy=True))
        else:  # a buffer, which a fresh model may not have yet
            device = next(model.parameters()).device
            setattr(owner, attribute, stored.to(device=device, copy=True))


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Returns the module that holds the tensor of this dotted name, and the attribute's name.

    Raises KeyError if there is none.
    """
    parent, _, attribute = name.rpartition(".")
    try:
        owner = model.get_submodule(parent)
    except AttributeError as e:
        raise KeyError(name) from e
    # In the module's own tables: `getattr` would also find methods and submodules of that name.
    if attribute not in owner._parameters and attribute not in owner._buffers:
        raise KeyError(name)
    return owner, attribute
