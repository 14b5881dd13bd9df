"""The buffers that training changes beside an adapter: the head's, and running averages of norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dora.errors import UserError


def head_buffers(model: nn.Module, head: Sequence[str]) -> dict[str, Tensor]:
    """Returns the head's buffers, as far as they are part of a state_dict, by name in `model`."""
    found = {}
    for name in head:
        module = model.get_submodule(name)
        own = {buffer for buffer, _ in module.named_buffers()}
        for key, tensor in module.state_dict().items():
            if key in own:
                found[f"{name}.{key}"] = tensor
    return found


def running_averages(model: nn.Module) -> dict[str, Tensor]:
    """Returns the running means, variances and counts of BatchNorm and its like, by name.

    In training mode they change with every forward pass, whether their module is frozen or not.
    """
    return {
        f"{name}.{key}" if name else key: tensor
        for name, module in model.named_modules()
        if isinstance(module, _NormBase)
        for key, tensor in module.named_buffers()
    }


def refuse_moved_averages(
    model: nn.Module, head: Sequence[str], before: Mapping[str, Tensor]
) -> None:
    """Raises UserError if averages outside the head differ from those `before`, by name.

    PEFT's file holds components and modules that are trained whole: a model that it is loaded into
    would normalise with other averages than the trained one.
    """
    inside = tuple(f"{name}." for name in head)
    moved = [
        name.rpartition(".")[0]
        for name, now in running_averages(model).items()
        if not name.startswith(inside) and not torch.equal(now.cpu(), before[name])
    ]
    if moved:
        raise UserError(
            f"training has moved the running averages of {moved[0]}, for which PEFT's file has no "
            "place: attach with it in head=, or hold it in eval(); what is trained now is kept "
            "whole by merge(), and by state_dict()"
        )
