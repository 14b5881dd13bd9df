"""The optimizer's groups: parameters of one peak rate and one weight decay each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from dora.errors import UserError
from dora.methods.base import ParameterGroup
from dora.plain import counted


def parameter_groups(
    model: nn.Module,
    head: Collection[str],
    lr: float,
    head_lr: float | None,
    weight_decay: float,
    decay_all: bool,
    own: Sequence[ParameterGroup] = (),
) -> list[dict[str, Any]]:
    """Returns the optimizer's groups: parameters of one peak rate and one weight decay each.

    Biases and LayerNorm are not decayed, as in the Transformers Trainer, unless `decay_all` is set.
    `head`: names of the parameters that `head_lr`, if given, is for. `own`: the method's groups,
    whose rates and decays take precedence. Each group's `peak` is the learning rate at the
    schedule's height. Raises UserError for a tensor of `own` that is none of the model's: nothing
    would train or save it.
    """
    for group in own:
        if not isinstance(group, ParameterGroup):
            raise UserError(
                f"parameter_groups returned {type(group).__name__}s ({group!r:.60}), which must be "
                "ParameterGroups"
            )
    spared = set() if decay_all else _biases_and_norms(model)
    owner = {p: (i, group) for i, group in enumerate(own) for p in group.parameters}
    if foreign := owner.keys() - set(model.parameters()):
        shapes = ", ".join(sorted(str(tuple(p.shape)) for p in foreign)[:3])
        raise UserError(
            f"parameter_groups names {counted(len(foreign), 'tensor')} that the model does not have "
            f"(shape {shapes}), so that nothing would train or save them: register them in one of "
            "its modules"
        )
    groups: dict[tuple[bool, bool, int | None], dict[str, Any]] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        in_head, decayed = name in head, name not in spared
        peak = head_lr if in_head and head_lr is not None else lr
        decay = weight_decay if decayed else 0.0
        which = None
        if p in owner:
            which, mine = owner[p]
            if mine.by_method:
                continue
            peak *= mine.rate
            decay = decay if mine.weight_decay is None else mine.weight_decay
        # Not by rate and decay: a group that the method named stays one, whatever its values.
        key = (in_head, decayed, which)
        groups.setdefault(key, {"params": [], "peak": peak, "weight_decay": decay})
        groups[key]["params"].append(p)
    return list(groups.values())


def _biases_and_norms(model: nn.Module) -> set[str]:
    """Returns the names of biases and LayerNorm parameters, which weight decay usually spares."""
    return {
        f"{name}.{own}" if name else own
        for name, module in model.named_modules()
        for own, _ in module.named_parameters(recurse=False)
        if own == "bias" or isinstance(module, nn.LayerNorm)
    }
