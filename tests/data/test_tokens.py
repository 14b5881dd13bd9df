"""Batches are padded or packed rightly, and arrays are cached once, whichever process is first."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dora.backbones.attention import attention_mask
from dora.backbones.backbone import load_tokenizer, locate
from dora.data.mini import mini
from dora.data.tasks import TASKS
from dora.data.tokens import Tokens, tokenise, tokenised
from dora.preparing.prepare import prepare
from dora.training import build
from dora.training.processes import World
from runs import small


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


def test_a_model_of_scaled_dot_products_gets_a_mask_only_where_there_is_padding() -> None:
    def model(attention: str, kind: str = "roberta") -> Any:
        config = SimpleNamespace(_attn_implementation=attention, model_type=kind)
        return SimpleNamespace(config=config)

    inside = np.array([[1, 1, 1], [1, 1, 0]])
    assert attention_mask(model("sdpa"), inside[:1]) is None
    mask = attention_mask(model("sdpa"), inside)
    assert mask is not None
    assert mask.dtype == bool
    assert mask.tolist() == [[[[True, True, True]]], [[[True, True, False]]]]
    assert attention_mask(model("eager"), inside[:1]) is not None
    # Its layers of a sliding window make masks of their own from this one.
    assert attention_mask(model("sdpa", "modernbert"), inside) is inside


def test_segment_ids_are_kept_where_the_model_has_them(tmp_path: Path) -> None:
    class Words:
        """A stand-in for a BERT tokenizer: one id a word, 0 and 1 as segments."""

        pad_token_id = 0

        def __call__(self, first: list[str], second: list[str], **_: Any) -> dict[str, Any]:
            pairs = list(zip(first, second, strict=True))
            return {
                "input_ids": [[len(w) for w in f"{a} {b}".split()] for a, b in pairs],
                "token_type_ids": [[0] * len(a.split()) + [1] * len(b.split()) for a, b in pairs],
            }

    rows = mini(TASKS["rte"])["dev"]
    tokens = tokenised(tmp_path, "id", {"dev": rows}, Words(), 24, segments=True)["dev"]
    batch = tokens.batch(np.array([3]))
    assert rows.second is not None
    assert batch["token_type_ids"].tolist() == [
        [0] * len(rows.first[3].split()) + [1] * len(rows.second[3].split())
    ]


def test_tokens_are_made_once_and_read_from_the_cache_after(tmp_path: Path) -> None:
    folder = locate(embedded="tiny_roberta", random_weights=True)
    splits = {"dev": mini(TASKS["sst2"])["dev"]}
    one = tokenised(tmp_path, "id", splits, load_tokenizer(folder), 24, segments=False)["dev"]

    class Unusable:
        pad_token_id = one.pad

        def __call__(self, *_: Any, **__: Any) -> None:
            raise AssertionError("tokenised a second time")

    two = tokenised(tmp_path, "id", splits, Unusable(), 24, segments=False)["dev"]
    assert (one.ids == two.ids).all()
    assert isinstance(two.ids, np.memmap)
    with pytest.raises(AssertionError, match="a second time"):
        tokenised(tmp_path, "other data", splits, Unusable(), 24, segments=False)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda f: os.truncate(f, 200), lambda f: f.write_bytes(b"")]
)
def test_a_damaged_cache_is_made_anew(damage: Callable[[Path], Any], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(locate(embedded="tiny_roberta", random_weights=True))
    splits = {"dev": mini(TASKS["sst2"])["dev"]}
    one = np.array(tokenised(tmp_path, "id", splits, tokenizer, 24, segments=False)["dev"].ids)
    for file in sorted(tmp_path.rglob("*.npy")):
        damage(file)
        assert (
            tokenised(tmp_path, "id", splits, tokenizer, 24, segments=False)["dev"].ids == one
        ).all()


def test_every_flipped_bit_of_the_cache_is_noticed(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(locate(embedded="tiny_roberta", random_weights=True))
    rows = mini(TASKS["rte"])["dev"].take(np.arange(40))
    made: list[int] = []

    def arrays() -> dict[str, Any]:
        return vars(
            tokenised(tmp_path, "id", {"dev": rows}, tokenizer, 24, False, lambda: made.append(1))[
                "dev"
            ]
        )

    whole = {name: np.array(value) for name, value in arrays().items()}
    files, chance = sorted(tmp_path.rglob("*.*")), Random(0)
    assert [file.name for file in files] == ["dev.ids.npy", "dev.lengths.npy", "manifest.json"]
    for number in range(100):
        file = files[number % 3]
        data = bytearray(file.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        again = arrays()
        assert all(np.array_equal(np.array(again[name]), value) for name, value in whole.items()), (
            file
        )
    # A flipped bit may turn white space between two keys of the manifest into other white space.
    assert 95 <= len(made) - 1 <= 100


def test_rows_are_tokenised_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(locate(embedded="tiny_roberta", random_weights=True))
    rows = mini(TASKS["rte"])["dev"].take(np.arange(50))
    whole = tokenise(rows, tokenizer, 24, segments=False)
    monkeypatch.setattr("dora.data.tokens.PIECE", 16)
    sizes: list[int] = []

    def counted(first: list[str], second: list[str], **how: Any) -> Any:
        sizes.append(len(first))
        return tokenizer(first, second, **how)

    pieces = tokenise(rows, counted, 24, segments=False)
    assert sizes == [16, 16, 16, 2]
    assert all(np.array_equal(pieces[name], whole[name]) for name in whole)


def test_the_cache_is_read_where_files_cannot_be_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(locate(embedded="tiny_roberta", random_weights=True))
    splits = {"dev": mini(TASKS["sst2"])["dev"]}
    mapped = np.array(tokenised(tmp_path, "id", splits, tokenizer, 24, segments=False)["dev"].ids)
    load = np.load

    def without_mmap(file: Path, mmap_mode: str | None = None) -> np.ndarray:
        if mmap_mode is not None:
            raise OSError(19, "No such device")
        return load(file)

    monkeypatch.setattr(np, "load", without_mmap)
    assert (
        tokenised(tmp_path, "id", splits, tokenizer, 24, segments=False)["dev"].ids == mapped
    ).all()


@pytest.mark.parametrize("package", ["tokenizers", "transformers"])
def test_another_version_of_what_tokenises_has_a_cache_of_its_own(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(locate(embedded="tiny_roberta", random_weights=True))
    splits = {"dev": mini(TASKS["sst2"])["dev"].take(np.arange(8))}
    tokenised(tmp_path, "id", splits, tokenizer, 24, segments=False)
    monkeypatch.setattr(
        "dora.data.tokens.version", lambda name: "9.9" if name == package else "1.0"
    )
    tokenised(tmp_path, "id", splits, tokenizer, 24, segments=False)
    assert len(list(tmp_path.iterdir())) == 2


def test_another_start_seed_method_or_budget_tokenises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    whole = build.tokenised.__globals__["tokenise"]
    monkeypatch.setitem(
        build.tokenised.__globals__,
        "tokenise",
        lambda *given: made.append(given) or whole(*given),
    )
    world = World(0, 1, torch.device("cpu"))

    def start(*overrides: str) -> int:
        build._tokens(prepare(small(tmp_path, *overrides)), world)
        return len(made)

    first = start()
    assert first == 3  # train, dev, test
    assert start() == first
    assert start("seed=2", "method=dora", "budget=20k", "select=heldout") == first
    assert start("max_length=32") == 2 * first


def test_of_processes_that_start_together_one_tokenises(tmp_path: Path) -> None:
    made = []

    class Slow:
        pad_token_id = 0

        def __call__(self, first: list[str], *_: Any, **__: Any) -> dict[str, Any]:
            made.append(first)
            time.sleep(0.2)
            return {"input_ids": [[1] for _ in first]}

    splits = {"dev": mini(TASKS["sst2"])["dev"]}
    given = (tmp_path, "id", splits, Slow(), 24, False)
    starts = [threading.Thread(target=tokenised, args=given) for _ in range(3)]
    for thread in starts:
        thread.start()
    for thread in starts:
        thread.join()
    assert len(made) == 1
