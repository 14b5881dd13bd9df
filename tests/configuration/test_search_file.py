"""A file of searches says what was chosen, or is refused with the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from searches import search_at

from dora.configuration import search_file
from dora.errors import UserError
from runs import run, small


def test_of_values_that_are_equal_the_default_wins() -> None:
    tie = {0.3: (60.0,), 0.5: (None,)}
    scores = {1e-3: (60.0,)}
    search = search_at("m", "rte", "dora", "r2", (1,), scores, {}, "dem", 0.1, tie)
    assert (search.value, search.best) == (0.1, 60.0)


def test_equal_means_tie_whatever_the_last_bits_of_their_scores() -> None:
    # 100 times a fraction is rounded: by the last bit 2e-3, the first, would be the better one.
    first, second = (100 * 0.57, 100 * 0.59), (100 * 0.58, 100 * 0.58)
    assert sum(first) != sum(second)
    scores = {1e-3: second, 2e-3: first}
    search = search_at("m", "rte", "dora", "r2", (1, 2), scores, {}, "dem", 0.1, {0.3: first})
    assert (search.lr, search.value, search.all_equal) == (1e-3, 0.1, True)


def test_a_search_is_named_by_the_length_that_its_runs_were_given(tmp_path: Path) -> None:
    federated = ["method=fedit", "fed.rounds=4", "max_steps=null"]
    lengths = {"lora": "24 steps", "full": "2 epochs", "fedit": "4 rounds"}
    given = {
        "lora": small(tmp_path, "method=lora"),
        "full": small(tmp_path, "method=full", "max_steps=null", "epochs=2"),
        "fedit": small(tmp_path, *federated),
    }
    assert {name: config.length for name, config in given.items()} == lengths
    # The record, from which tables make searches, says the same.
    assert {name: search_file.length(c.resolved()) for name, c in given.items()} == lengths


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"budget": 8}, "TypeError: model, task, method, budget, length, data are texts"),
        ({"length": None}, "TypeError: model, task, method, budget, length, data are texts"),
        ({"scores": [[-0.1, [1]]]}, "ValueError: a search has rates above 0"),
        ({"scores": [[0.1, [1, 2]]]}, "ValueError: every rate has a score, and a loss, for each"),
        ({"values": [[0.3, [1]]], "setting": None}, "TypeError: the setting whose values"),
    ],
)
def test_a_search_with_a_wrong_entry_is_refused(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    file = tmp_path / "choices.json"
    search_file.write(file, [search_at("m", "rte", "lora", None, (1,), {0.1: (1,)})])
    (entry,) = json.loads(file.read_text())["choices"]
    file.write_text(json.dumps({"choices": [entry | changes]}))
    with pytest.raises(UserError, match=rf"is no file of python -m dora.tune \({why}"):
        search_file.read(file)


def test_a_search_that_an_earlier_version_wrote_is_refused_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "choices.json"
    search_file.write(file, [search_at("m", "rte", "lora", None, (1,), {0.1: (1,)})])
    (entry,) = json.loads(file.read_text())["choices"]
    del entry["losses"]
    file.write_text(json.dumps({"choices": [entry]}))
    with pytest.raises(
        UserError, match=r"choices\.json lacks 'losses': .* moved away, the commands"
    ):
        search_file.read(file)


@pytest.mark.parametrize("text", ["{}", '{"choices": [{}]}', "no json"])
def test_a_file_that_is_no_search_is_refused_before_anything_begins(
    text: str, tmp_path: Path
) -> None:
    (tmp_path / "choices.json").write_text(text)
    with pytest.raises(UserError, match=r"rates_from"):
        run(small(tmp_path, "method=lora", f"rates_from={tmp_path}/choices.json"))
    with pytest.raises(UserError, match=r"rates_from=.*cannot be read"):
        run(small(tmp_path, "method=lora", f"rates_from={tmp_path}/nothing.json"))
    with pytest.raises(UserError, match=r"cannot be read: File name too long$"):
        search_file.read(tmp_path / ("x" * 300))
