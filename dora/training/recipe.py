"""The recipe of training: dropout's seed by step, the loss, and the optimizer's groups.

All are pure functions, so nothing here is part of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dora.config import Config
from dora.data.tasks import Task
from dora.methods.base import ParameterGroup
from dora.methods.seeds import seed_of


def step_seed(seed: int, step: int, part: int, rank: int) -> int:
    """Returns the seed of dropout in micro-batch `part` of a step, on process `rank`."""
    return seed_of(seed, step, part, rank)


def task_loss(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    """Returns cross-entropy or squared error, summed over examples.

    logits: (n, outputs), labels: (n,).
    """
    # In float32 at least: bfloat16 has 8 bits of precision, too few for a sum.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if task.regression:
        return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype), reduction="sum")
    return F.cross_entropy(logits, labels, reduction="sum")


def parameter_groups(
    model: nn.Module,
    head: set[str],
    config: Config,
    lr: float,
    own: Sequence[ParameterGroup] = (),
) -> list[dict[str, Any]]:
    """Returns the optimizer's groups: parameters of one peak rate and one weight decay each.

    Biases and LayerNorm are not decayed, as in the Transformers Trainer, unless `decay_all` is set.
    `own`: the method's groups, whose rates and decays take precedence. Each group's `peak` is the
    learning rate at the schedule's height.
    """
    spared = set() if config.decay_all else _biases_and_norms(model)
    owner = {p: (i, group) for i, group in enumerate(own) for p in group.parameters}
    groups: dict[tuple[bool, bool, int | None], dict[str, Any]] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        in_head, decayed = name in head, name not in spared
        peak = config.head_lr if in_head and config.head_lr is not None else lr
        decay = config.weight_decay if decayed else 0.0
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
