"""Batches are padded or packed rightly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dora.backbones.backbone import load_tokenizer, locate
from dora.data.mini import mini
from dora.data.tasks import TASKS
from dora.data.token_cache import tokenised
from dora.data.tokens import Tokens


@pytest.mark.parametrize(("model", "task"), [("tiny_roberta", "sst2"), ("tiny_deberta", "rte")])
def test_a_batch_equals_the_tokenizers_own_padding(model: str, task: str, tmp_path: Path) -> None:
    folder = locate(embedded=model, random_weights=True)
    tokenizer = load_tokenizer(folder)
    rows = mini(TASKS[task])["dev"]
    tokens = tokenised(tmp_path, "id", {"dev": rows}, tokenizer, 24, segments=False)["dev"]
    index = np.array([5, 0, 17])
    second = None if rows.second is None else [rows.second[i] for i in index]
    theirs = tokenizer(
        [rows.first[i] for i in index], second, truncation=True, max_length=24, padding=True
    )
    ours = tokens.batch(index)
    assert ours["input_ids"].tolist() == theirs["input_ids"]
    assert ours["attention_mask"].tolist() == theirs["attention_mask"]
    assert (
        tokens.take(index).batch(np.array([1]))["input_ids"].tolist()
        == tokens.batch(np.array([0]))["input_ids"].tolist()
    )


def test_a_packed_batch_holds_each_row_s_ids_and_places_one_after_the_other() -> None:
    ids = np.arange(10, 22, dtype=np.int32)
    lengths = np.array([3, 5, 4])
    types = np.array([0, 0, 1, 0, 0, 0, 1, 1, 0, 1, 1, 1], np.uint8)
    start = np.cumsum(lengths) - lengths
    tokens = Tokens(ids, types, start, lengths, None, np.arange(3), pad=0)
    batch = tokens.packed(np.array([2, 0]))
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[18, 19, 20, 21, 10, 11, 12]],
        "position_ids": [[0, 1, 2, 3, 0, 1, 2]],
        "token_type_ids": [[0, 1, 1, 1, 0, 0, 1]],
    }
    assert all(values.dtype == np.int64 for values in batch.values())


def test_a_batch_is_padded_to_a_multiple_but_not_beyond_the_longest_row_of_all() -> None:
    lengths = np.array([3, 5, 2])
    types = np.array([0, 0, 1, 0, 0, 0, 1, 1, 0, 1], np.uint8)
    start = np.cumsum(lengths) - lengths
    ids = np.arange(10, 20, dtype=np.int32)
    tokens = Tokens(ids, types, start, lengths, None, np.arange(3), pad=7)
    # Row 0 of 3 tokens: to 3, to 4, and to 5 in place of 8.
    for multiple, padding in ((1, 0), (4, 1), (8, 2)):
        batch = tokens.batch(np.array([2, 0]), multiple)
        assert {name: values.tolist() for name, values in batch.items()} == {
            "input_ids": [[18, 19, 7] + [7] * padding, [10, 11, 12] + [7] * padding],
            "attention_mask": [[1, 1, 0] + [0] * padding, [1, 1, 1] + [0] * padding],
            "token_type_ids": [[0, 1, 0] + [0] * padding, [0, 0, 1] + [0] * padding],
        }
