"""A record of an earlier version is read with the keys of today, and a new one as it is."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from dora.records import packed
from dora.records.about_method import ranks_of
from dora.records.about_starts import commits
from dora.records.older import upgraded
from dora.records.run_json import parsed, read
from dora.records.words import Foreign, typed
from record_files import write_run

RESULTS = Path(__file__).parents[2] / "results"
RANKS = {"roberta.encoder.layer.0.attention.self.query": 3}


def old(tmp_path: Path, method: str = "dora", **changes: Any) -> dict[str, Any]:
    """Returns a record of the oldest form, which `write_run` writes, as it is read."""
    budget = "none" if method == "full" else "r8"
    return read(write_run(tmp_path, method, 1, 0.5, budget=budget, **changes))


@pytest.mark.parametrize(
    ("method", "title", "budget", "result"),
    [
        ("lora", "LoRA", "exact", "adapter"),
        ("adalora", "AdaLoRA", "exact", "adapter"),
        ("dora", "DoRA (dynamic rank)", "exact", "adapter"),
        ("full", "full fine-tuning", "none", "model"),
    ],
)
def test_the_first_four_methods_are_described(
    method: str, title: str, budget: str, result: str, tmp_path: Path
) -> None:
    about = old(tmp_path, method)["method"]
    assert (about["title"], about["budget"], about["result"]) == (title, budget, result)
    assert about["paper"] is None
    assert ("PEFT's use_dora is off" in (about.get("note") or "")) == (method == "dora")


def test_the_start_that_is_known_stands_at_the_top_level(tmp_path: Path) -> None:
    run = old(tmp_path, world_size=2)
    assert [start["world_size"] for start in run["starts"]] == [2]
    assert commits(run) == "0" * 40


def test_the_last_ranks_are_those_of_the_best_weights_and_the_arithmetic_is_the_first(
    tmp_path: Path,
) -> None:
    run = old(tmp_path, ranks=RANKS)
    assert ranks_of(run, "last") == ranks_of(run, "best") == RANKS
    assert run["arithmetic"] == 1


@pytest.mark.parametrize(
    ("word", "today"),
    [
        ("group_by_length=false", "batching=random"),
        ("group_by_length=True", "batching=length"),
    ],
)
def test_a_typed_key_of_an_earlier_version_becomes_todays(
    word: str, today: str, tmp_path: Path
) -> None:
    assert typed(old(tmp_path, words=["task=rte", word])["words"]) == ("task=rte", today)
    with pytest.raises(Foreign, match="no key of this suite"):
        typed(["group_by_length=perhaps"])


def test_an_unfinished_record_is_given_no_keys() -> None:
    # It may hold any part of a record.
    run = {"schema": 1, "status": "waiting", "words": None}
    assert upgraded(copy.deepcopy(run)) == run


def test_an_old_record_that_was_read_can_be_written_and_read_again(tmp_path: Path) -> None:
    # A run that is begun anew writes its old record once more, with a note, before it is cleared.
    runs = [old(tmp_path)] + [read(folder) for folder in packed.directories(RESULTS / "backbones")]
    for run in runs:
        run.pop("sha256", None)
        assert parsed(json.dumps(run).encode()) == run


def test_a_record_of_today_stays_as_it_is() -> None:
    for folder in packed.directories(RESULTS / "study_federated"):
        assert read(folder) == json.loads((folder / "run.json").read_text())
