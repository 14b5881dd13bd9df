"""Training rows run through the model before the first step: inputs and gradients for `begin`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from itertools import groupby

import numpy as np
import torch
from torch import nn

from dora.adapters.lowrank import LowRankLinear
from dora.adapters.weight_gradients import weight_gradients
from dora.configuration.config import Config
from dora.data.order import order
from dora.data.tokens import Tokens
from dora.methods.base import FirstRows
from dora.training.forward import task_loss

ROWS = 32  # in one batch


def calibrator(
    config: Config,
    model: nn.Module,
    layers: Iterable[LowRankLinear],
    train: Tokens,
    device: torch.device,
) -> FirstRows:
    """Returns a function that runs the first n training rows of epoch 0 through the model.

    The model is in evaluation mode, so that nothing random is drawn. Rows of one batch have one
    length, so that no padding enters a layer's input. `layers`: the method's, whose frozen weights
    get gradients as well.
    """
    layers = list(layers)

    def forward(number: int, backward: bool = False) -> None:
        """Runs the first `number` rows; with `backward` their gradients are left (`FirstRows`)."""
        model.eval()
        epoch = order(config.seed, 0, train.lengths, config.batch_size, config.batching)
        rows = np.concatenate(epoch)[:number]
        # By length, then in the epoch's order, so that sums have one order on every machine.
        rows = rows[np.argsort(train.lengths[rows], kind="stable")]
        # A compiled model need not ask for hooks that it was compiled without.
        eager = torch.compiler.set_stance("force_eager") if config.compile else nullcontext()
        with eager, weight_gradients(model, layers) if backward else torch.no_grad():
            for _, group in groupby(rows, key=lambda row: train.lengths[row]):
                alike = np.array(list(group))
                for at in range(0, len(alike), ROWS):
                    some = alike[at : at + ROWS]
                    batch = train.batch(some)
                    del batch["attention_mask"]  # nothing is padded
                    out = model(**{k: torch.from_numpy(v).to(device) for k, v in batch.items()})
                    if backward:
                        labels = torch.from_numpy(np.asarray(train.label)[some]).to(device)
                        loss = task_loss(config.glue_task, out.logits, labels)
                        (loss / len(rows)).backward()

    return forward
