"""Arrays are tokenised and cached once, whichever process is first, and checked when opened."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from dora.backbones.backbone import load_tokenizer, locate
from dora.data.mini import mini
from dora.data.tasks import TASKS
from dora.data.token_cache import tokenise, tokenised
from dora.preparing.prepare import prepare
from dora.training import build
from dora.training.processes import World
from runs import small


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
    monkeypatch.setattr("dora.data.token_cache.PIECE", 16)
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
        "dora.data.token_cache.version", lambda name: "9.9" if name == package else "1.0"
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
