"""Evaluation: the logits of a split, its rows shared out over processes, and their scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dora.data.order import by_length
from dora.data.predictions import degenerate
from dora.data.tasks import Task, score_key
from dora.data.tokens import Tokens
from dora.process.imports import uncollected
from dora.training.forward import task_loss
from dora.training.processes import World

# Rows of an evaluation batch over all processes, on a CPU and on a GPU. They may be many, since
# nothing is kept for a backward pass. A GPU computes small batches faster than its host can launch
# them.
EVAL_ROWS, _GPU_ROWS = 64, 256


def rows_at_once(device: torch.device, processes: int = 1) -> int:
    """Returns the rows that each of a run's processes computes at a time in an evaluation."""
    return max(1, (EVAL_ROWS if device.type == "cpu" else _GPU_ROWS) // processes)


@torch.inference_mode()
def predict(
    tokens: Tokens,
    outputs: int,
    world: World,
    forward: Callable[[Tokens, np.ndarray], Tensor],
    each_batch: Callable[[str], None] = lambda text: None,
) -> np.ndarray:
    """Returns the logits of a split in row order, (rows, outputs) float32, on every process.

    Each row is computed by one process. `forward`: (tokens, row numbers) → logits (n, outputs).
    `each_batch`: receives a line on the progress after each batch.
    """
    # By row number, not by a DistributedSampler, which pads its shards with rows that it repeats.
    mine = np.arange(len(tokens))[world.rank :: world.size]
    pieces, done = [], 0
    # Rows of like length share a batch, which leaves little padding.
    for rows in by_length(tokens.lengths[mine], rows_at_once(world.device, world.size)):
        pieces.append((mine[rows], forward(tokens, mine[rows]).float().cpu().numpy()))
        done += len(rows)
        each_batch(f"{done:,} of {len(mine):,} rows")
    logits = np.empty((len(tokens), outputs), np.float32)
    for piece in world.gather(pieces):
        for rows, values in piece:
            logits[rows] = values
    return logits


def scores(
    task: Task, logits: Mapping[str, np.ndarray], splits: Mapping[str, Tokens]
) -> dict[str, Any]:
    """Returns {metric: value, …, degenerate: reason or None} over those splits that have labels.

    Metrics of splits other than `dev` have a suffix: `accuracy_mm`, `accuracy_heldout`. A metric
    that is not defined is absent.
    """
    # Imported here: scikit-learn takes two seconds, and the first step need not wait for them.
    with uncollected():
        from dora.data.metrics import score

    found: dict[str, Any] = {}
    why = None
    for split, tokens in splits.items():
        if tokens.label is None:
            continue
        values = score(task, logits[split], tokens.label)
        found |= {score_key(name, split): v for name, v in values.items()}
        why = why or degenerate(task, logits[split], values)
    return {**found, "degenerate": why}


def losses(
    task: Task, logits: Mapping[str, np.ndarray], splits: Mapping[str, Tokens]
) -> dict[str, float]:
    """Returns the mean loss of each labelled split: {"loss": …, "loss_mm": …}, as scores are named.

    This is the task loss that training minimises, without a method's penalty. A loss that is not
    finite is absent.
    """
    found = {}
    for split, tokens in splits.items():
        if tokens.label is None:
            continue
        labels = torch.from_numpy(np.asarray(tokens.label))
        # 64 bits: QQP's sum has 40,000 terms.
        total = task_loss(task, torch.from_numpy(logits[split]).double(), labels)
        value = float(total) / len(tokens)
        if math.isfinite(value):
            found[score_key("loss", split)] = value
    return found
