"""Evaluation predicts every row once, in batches of rows of like length."""

from __future__ import annotations

import numpy as np
import torch

from conftest import tokens
from dora.training.evaluation import EVAL_ROWS, predict
from dora.training.processes import World


def test_every_row_is_predicted_once_and_in_its_place() -> None:
    rows = 2 * EVAL_ROWS + 2
    data, batches = tokens(rows), []

    def forward(given: object, batch: np.ndarray) -> torch.Tensor:
        batches.append(batch)
        return torch.from_numpy(np.stack([batch, -batch], 1))

    cpu = World(0, 1, torch.device("cpu"))
    logits = predict(data, 2, cpu, forward)
    assert np.array_equal(logits[:, 0], np.arange(rows))
    assert np.array_equal(logits[:, 1], -np.arange(rows))
    assert [len(batch) for batch in batches] == [EVAL_ROWS, EVAL_ROWS, 2]
    # Sorted over the whole split: no batch holds a row that is longer than one of the batch before.
    lengths = data.lengths[np.concatenate(batches)]
    assert (np.diff(lengths) <= 0).all()
