"""Evaluation predicts every row once, in batches of rows of like length, and scores each split."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import tokens
from dora.data.tasks import TASKS
from dora.training.evaluation import EVAL_ROWS, losses, predict, scores
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


def test_processes_share_out_the_rows_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tokens(EVAL_ROWS + 3)
    held: list[tuple[np.ndarray, np.ndarray]] = []

    def gather(world: World, pieces: list[tuple[np.ndarray, np.ndarray]]) -> list[object]:
        held.extend(pieces)
        return [pieces]

    monkeypatch.setattr(World, "gather", gather)
    for rank in (0, 1):
        world = World(rank, 2, torch.device("cpu"))
        predict(data, 1, world, lambda given, rows: torch.from_numpy(rows[:, None]))
    assert sorted(np.concatenate([rows for rows, _ in held])) == list(range(len(data)))
    assert all(np.array_equal(rows, values[:, 0]) for rows, values in held)
    assert [len(rows) for rows, _ in held] == [EVAL_ROWS // 2, 2, EVAL_ROWS // 2, 1]


def test_every_development_split_has_its_scores_and_a_collapse_on_any_of_them_is_said() -> None:
    mnli, splits = (
        TASKS["mnli"],
        {"dev": tokens(8), "dev_mm": tokens(6, seed=1)},
    )
    right = {name: np.eye(3, dtype=np.float32)[split.label] for name, split in splits.items()}
    assert scores(mnli, right, splits) == {
        "accuracy": 1.0,
        "accuracy_mm": 1.0,
        "degenerate": None,
    }
    for collapsed, other in (("dev", "dev_mm"), ("dev_mm", "dev")):
        one_class = np.eye(3, dtype=np.float32)[np.ones(len(splits[collapsed]), int)]
        found = scores(mnli, {**right, collapsed: one_class}, splits)
        number = len(splits[collapsed])
        assert found["degenerate"] == f"all {number} predictions are 'neutral'"
        suffixes = {"dev": "", "dev_mm": "_mm"}
        share = float(np.mean(splits[collapsed].label == 1))
        assert found[f"accuracy{suffixes[collapsed]}"] == pytest.approx(share)
        assert found[f"accuracy{suffixes[other]}"] == 1.0


def test_losses_are_means_over_a_splits_rows_and_one_that_is_not_finite_is_absent() -> None:
    splits = {"heldout": tokens(5)}
    logits = {"heldout": np.zeros((5, 2), np.float32)}
    assert losses(TASKS["sst2"], logits, splits) == {"loss_heldout": pytest.approx(math.log(2))}
    drawn = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    wide = drawn.astype(np.float64)
    chosen = wide[np.arange(5), splits["heldout"].label]
    want = np.mean(np.log(np.exp(wide).sum(1)) - chosen)
    found = losses(TASKS["sst2"], {"heldout": drawn}, splits)
    assert found == {"loss_heldout": pytest.approx(want, rel=1e-12)}  # summed in 64 bits
    logits["heldout"][3] = np.nan
    assert losses(TASKS["sst2"], logits, splits) == {}


def test_a_split_without_labels_has_neither_scores_nor_a_loss() -> None:
    splits = {"test": replace(tokens(5), label=None)}
    logits = {"test": np.zeros((5, 2), np.float32)}
    assert scores(TASKS["sst2"], logits, splits) == {"degenerate": None}
    assert losses(TASKS["sst2"], logits, splits) == {}
