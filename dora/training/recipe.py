"""The recipe of training: dropout's seed by step, and the loss.

Both are pure functions, so nothing here is part of a checkpoint.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dora.data.tasks import Task
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
