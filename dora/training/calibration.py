"""Training rows run through the model before the first step, for methods that look at inputs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import numpy as np
import torch
from torch import nn

from dora.data.tokens import Tokens, order

ROWS = 32  # in one batch


def calibrator(
    model: nn.Module, train: Tokens, seed: int, batch_size: int, batching: str, device: torch.device
) -> Callable[[int], None]:
    """Returns a function that runs the first n training rows of epoch 0 through the model.

    The model is in evaluation mode, so that nothing random is drawn. Rows of one batch have one
    length, so that no padding enters a layer's input.
    """

    @torch.no_grad()
    def forward(number: int) -> None:
        model.eval()
        rows = np.concatenate(order(seed, 0, train.lengths, batch_size, batching))[:number]
        # By length, then in the epoch's order, so that sums have one order on every machine.
        rows = rows[np.argsort(train.lengths[rows], kind="stable")]
        for _, group in groupby(rows, key=lambda row: train.lengths[row]):
            alike = np.array(list(group))
            for at in range(0, len(alike), ROWS):
                batch = train.batch(alike[at : at + ROWS])
                del batch["attention_mask"]  # nothing is padded
                model(**{k: torch.from_numpy(v).to(device) for k, v in batch.items()})

    return forward
