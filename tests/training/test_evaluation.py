"""Evaluation predicts every row once, in batches of rows of like length."""

from __future__ import annotations

import numpy as np
import torch

from conftest import tokens
from dora.training.evaluation import batch_rows, predict
from dora.training.processes import World


def test_every_row_is_predicted_once_in_few_rows_on_a_cpu_and_in_its_place() -> None:
    data, batches = tokens(50), []

    def forward(given: object, rows: np.ndarray) -> torch.Tensor:
        batches.append(rows)
        return torch.from_numpy(np.stack([rows, -rows], 1))

    cpu = World(0, 1, torch.device("cpu"))
    logits = predict(data, 2, cpu, forward)
    assert np.array_equal(logits[:, 0], np.arange(50))
    assert np.array_equal(logits[:, 1], -np.arange(50))
    assert [len(rows) for rows in batches] == [16, 16, 16, 2]
    # Sorted over the whole split: no batch holds a row that is longer than one of the batch before.
    lengths = data.lengths[np.concatenate(batches)]
    assert (np.diff(lengths) <= 0).all()


def test_a_gpu_is_given_larger_batches() -> None:
    assert batch_rows(torch.device("cuda", 0)) > batch_rows(torch.device("cpu"))
