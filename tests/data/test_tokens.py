"""Batches take every row once, depend on seed and epoch alone, and have little padding.

Token arrays are cached once, whichever process starts first.
"""

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
from hypothesis import given, settings
from hypothesis import strategies as st

from dora.backbones.attention import attention_mask
from dora.backbones.backbone import load_tokenizer, locate
from dora.data.mini import mini
from dora.data.tasks import TASKS
from dora.data.tokens import Tokens, order, tokenise, tokenised
from dora.training import build
from dora.training.prepare import prepare
from dora.training.processes import World
from runs import load_script, small

script = load_script("padding")


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 500),
    st.integers(1, 40),
    st.integers(0, 5),
    st.integers(0, 3),
    st.sampled_from(["length", "random"]),
)
def test_an_epoch_takes_every_row_once_in_batches_of_the_given_size(
    n: int, size: int, seed: int, epoch: int, batching: str
) -> None:
    lengths = np.random.default_rng(n).integers(3, 60, n)
    batches = order(seed, epoch, lengths, size, batching)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert len(batches) == -(-n // size)
    assert sorted(len(b) for b in batches)[1:] == [size] * (len(batches) - 1)


def test_the_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    lengths = np.arange(200) % 17 + 3
    same = [np.concatenate(order(1, 0, lengths, 8)).tolist() for _ in range(2)]
    assert same[0] == same[1]
    for seed, epoch in ((2, 0), (1, 1)):
        assert np.concatenate(order(seed, epoch, lengths, 8)).tolist() != same[0]


def lengths_like_glue(rows: int) -> np.ndarray:
    """Returns (rows,) numbers of tokens, skewed and cut at 128 as GLUE's are."""
    drawn = np.random.default_rng(rows).lognormal(3.5, 0.6, rows)
    return np.minimum(drawn, 125).astype(int) + 3


def test_batches_by_length_leave_about_half_the_padding_of_random_ones() -> None:
    lengths = lengths_like_glue(4_000)

    def padding(batching: str) -> float:
        return script.padding(lengths, order(1, 0, lengths, 32, batching))

    assert padding("random") > 0.5
    assert padding("length") < 0.6 * padding("random")


def test_micro_batches_of_a_batch_by_length_hold_like_rows() -> None:
    lengths = lengths_like_glue(4_000)
    batches = order(1, 0, lengths, 32)
    assert all((np.diff(lengths[rows]) <= 0).all() for rows in batches)
    # As a step cuts them with grad_accum=4.
    parts = [part for rows in batches for part in np.array_split(rows, 4)]
    assert script.padding(lengths, parts) < 0.3 * script.padding(lengths, batches)


# The sizes of WNLI, RTE, MRPC, CoLA and SST-2.
@pytest.mark.parametrize("rows", [635, 2_490, 3_668, 8_551, 67_349])
@pytest.mark.parametrize("size", [16, 32, 64, 128, 256])
def test_a_row_meets_at_most_twice_the_old_partners_that_random_order_gives(
    rows: int, size: int
) -> None:
    by_chance = (size - 1) / (rows - 1)
    # No two lengths equal is the worst case: equal ones are in random order.
    for lengths in (lengths_like_glue(rows), np.random.default_rng(0).permutation(rows)):
        epochs = [order(1, epoch, lengths, size) for epoch in range(6)]
        assert script.old_partners(epochs) <= 2 * by_chance
    shuffled = [order(1, epoch, lengths, size, "random") for epoch in range(6)]
    # Few rows meet again: the more rows, the fewer batches' chances are averaged.
    assert script.old_partners(shuffled) == pytest.approx(by_chance, rel=0.15)


def test_old_partners_are_those_of_the_epoch_before() -> None:
    first = [np.array([0, 1, 2]), np.array([3, 4, 5])]
    second = [np.array([0, 1, 3]), np.array([2, 4]), np.array([5])]
    # Rows 0 and 1 keep one of two partners, 3 none of two, 2 and 4 none of one; 5 has none.
    assert script.old_partners([first, second]) == pytest.approx((0.5 + 0.5 + 0 + 0 + 0) / 5)


def test_the_variance_of_mean_labels_is_one_by_chance_and_more_where_labels_follow_lengths() -> (
    None
):
    lengths = lengths_like_glue(4_000)
    labels = np.random.default_rng(1).integers(0, 2, 4_000)
    shuffled = order(1, 0, lengths, 32, "random")
    assert script.label_variance(labels, shuffled) == pytest.approx(1, abs=0.3)
    # Two batches of two: means 0 and 1 around 0.5. By chance 0.25 / 2 · (4 - 2) / (4 - 1) = 1/12.
    apart = [np.array([0, 1]), np.array([2, 3])]
    assert script.label_variance(np.array([0, 0, 1, 1]), apart) == pytest.approx(0.25 * 12)


def test_padding_counts_every_row_at_its_batch_s_longest() -> None:
    lengths = np.array([1, 2, 3, 4])
    assert script.padding(lengths, [np.array([0, 1]), np.array([2, 3])]) == pytest.approx(
        1 - 10 / 12
    )
    assert script.padding(
        lengths, [np.array([0, 3]), np.array([], int), np.array([1, 2])]
    ) == pytest.approx(1 - 10 / 14)


@pytest.mark.parametrize("size", [16, 32])
def test_each_of_two_processes_has_no_more_padding_than_one(size: int) -> None:
    lengths = lengths_like_glue(4_000)
    batches = order(1, 0, lengths, size)
    halves = [rows[rank::2] for rows in batches for rank in (0, 1)]
    assert script.padding(lengths, halves) <= script.padding(lengths, batches)


@pytest.mark.parametrize(("model", "task"), [("tiny_roberta", "sst2"), ("tiny_deberta", "rte")])
def test_a_batch_equals_the_tokenizers_own_padding(model: str, task: str, tmp_path: Path) -> None:
    folder = locate(None, model, None, None, "main", True)
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


def test_a_model_of_scaled_dot_products_gets_a_mask_only_where_there_is_padding() -> None:
    def model(attention: str) -> Any:
        return SimpleNamespace(config=SimpleNamespace(_attn_implementation=attention))

    inside = np.array([[1, 1, 1], [1, 1, 0]])
    assert attention_mask(model("sdpa"), inside[:1]) is None
    mask = attention_mask(model("sdpa"), inside)
    assert mask is not None
    assert mask.dtype == bool
    assert mask.tolist() == [[[[True, True, True]]], [[[True, True, False]]]]
    assert attention_mask(model("eager"), inside[:1]) is not None


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
    folder = locate(None, "tiny_roberta", None, None, "main", True)
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
    tokenizer = load_tokenizer(locate(None, "tiny_roberta", None, None, "main", True))
    splits = {"dev": mini(TASKS["sst2"])["dev"]}
    one = np.array(tokenised(tmp_path, "id", splits, tokenizer, 24, segments=False)["dev"].ids)
    for file in sorted(tmp_path.rglob("*.npy")):
        damage(file)
        assert (
            tokenised(tmp_path, "id", splits, tokenizer, 24, segments=False)["dev"].ids == one
        ).all()


def test_every_flipped_bit_of_the_cache_is_noticed(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(locate(None, "tiny_roberta", None, None, "main", True))
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
    tokenizer = load_tokenizer(locate(None, "tiny_roberta", None, None, "main", True))
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
    tokenizer = load_tokenizer(locate(None, "tiny_roberta", None, None, "main", True))
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
    tokenizer = load_tokenizer(locate(None, "tiny_roberta", None, None, "main", True))
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
