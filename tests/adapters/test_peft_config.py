"""adapter_config.json of an export: made from the run's ranks, refused if the run's own differs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dora.adapters.peft_config import adapter_config, hub_name, hub_revision, rebuilt
from dora.errors import UserError
from dora.sharing.exporting import read_config
from record_files import names

# Ranks 0, 1 and 2 by turns: a matrix of rank 0 must not be a target.
RANKS = {name: i % 3 for i, name in enumerate(names(2))}
RUN = {"ranks": {"end": RANKS}, "model": {"hub": "FacebookAI/roberta-base", "revision": "e2da8e2"}}
GOOD = adapter_config(RANKS, "FacebookAI/roberta-base", ["classifier"])
FIRST = next(name for name, rank in RANKS.items() if rank)


@pytest.mark.parametrize(
    "change",
    [
        # Keys that PEFT follows and no run writes.
        {"auto_mapping": {"base_model_class": "x", "parent_library": "evil"}},
        {"use_dora": True},
        {"layer_replication": [[0, 9]]},
        # Values of another size, kind or type.
        {"lora_dropout": float("nan")},
        {"lora_dropout": 0},
        {"r": 10**9},
        {"r": "2"},
        {"lora_alpha": 99},
        {"bias": "all"},
        # Patterns that take a regular expression's matcher exponential time.
        {"target_modules": "(a+)+$"},
        {"target_modules": ["(a+)+$"]},
        {"rank_pattern": {"(a+)+$": 2}},
        {"alpha_pattern": {}},
        {"inference_mode": False},
        {"inference_mode": 1},
        {"peft_type": "VERA"},
        {"task_type": "CAUSAL_LM"},
        # The two entries that are read from the file, since run.json does not have both.
        {"modules_to_save": None},
        {"modules_to_save": ["a b"]},
        {"modules_to_save": "classifier"},
        {"modules_to_save": [7]},
        {"base_model_name_or_path": "evil/model"},
        {"base_model_name_or_path": None},
        {"base_model_name_or_path": "/etc"},
        # A key that would clear the terminal it is shown on.
        {"\x1b[2J": 1},
    ],
    ids=str,
)
def test_what_does_not_follow_from_the_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError) as e:
        rebuilt(RUN, {**GOOD, **change})
    assert all(problem.isprintable() for problem in e.value.problems)
    key = next(iter(change))
    assert key in str(e.value) or "base model" in str(e.value) or r"\x1b" in str(e.value)


@pytest.mark.parametrize("key", GOOD)
def test_a_key_that_is_missing_is_noticed(key: str) -> None:
    with pytest.raises(UserError):
        rebuilt(RUN, {k: v for k, v in GOOD.items() if k != key})


def test_what_a_run_wrote_is_made_anew_from_its_ranks() -> None:
    found = json.loads(json.dumps(GOOD))
    assert rebuilt(RUN, found) == GOOD
    assert rebuilt(RUN, found) is not found  # nothing of the file's own goes on into an export


@pytest.mark.parametrize(
    ("model", "base", "fits"),
    [
        ({"hub": "a/b", "revision": "main"}, "a/b", True),
        ({"hub": "a/b", "revision": "main"}, "a/c", False),
        ({"hub": None, "path": "/x/y", "revision": None}, "/x/y", True),
        ({"hub": None, "path": "/x/y", "revision": None}, "/x/z", False),
        # An embedded model: the record names neither, the file a folder of the package.
        ({"hub": None, "path": None, "revision": None}, "/assets/tiny_roberta", True),
        ({"revision": None}, "evil/model", False),
        ({"revision": "e2da"}, "a/b", True),
        ({"revision": "e2da"}, "../b", False),
        ({"revision": None}, "/x/\x1b[2J", False),
        # A revision becomes part of the code in a model card.
        ({"revision": "main'); evil("}, "a/b", False),
    ],
)
def test_the_base_model_is_the_records(model: dict[str, Any], base: str, fits: bool) -> None:
    run, found = {**RUN, "model": model}, {**GOOD, "base_model_name_or_path": base}
    if fits:
        assert rebuilt(run, found)["base_model_name_or_path"] == base
    else:
        with pytest.raises(UserError, match=r"base model"):
            rebuilt(run, found)


def sparse(path: Path, size: int) -> None:
    """Makes a file of `size` bytes that takes no space on the disk."""
    path.touch()
    os.truncate(path, size)


# Things that may lie in the place of adapter_config.json.
MAKE: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "4 GB": lambda path: sparse(path, 2**32),
    # Deep enough to exhaust the stack of a recursive JSON parser.
    "brackets": lambda path: path.write_text("[" * 100_000),
    "a list": lambda path: path.write_text("[]"),
    "half": lambda path: path.write_text(json.dumps(GOOD)[:-9]),
    "no text": lambda path: path.write_bytes(b"\xff\xfe"),
    "another": lambda path: path.write_text(json.dumps({**GOOD, "use_dora": True})),
}


@pytest.mark.parametrize("kind", MAKE)
def test_a_file_that_no_run_wrote_is_named(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "adapter" / "adapter_config.json"
    file.parent.mkdir()
    MAKE[kind](file)
    with pytest.raises(
        UserError, match=r"adapter_config\.json (cannot be read|is not as the run wrote it): "
    ):
        read_config(RUN, tmp_path)


# The hub's grammar: at most two parts of 96 characters.
@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("roberta-base", True),
        ("microsoft/deberta-v3-base", True),
        ("a.b_c/d", True),
        ("../x", False),
        ("/x", False),
        ("a/b/c", False),
        ("a b", False),
        ("a'b", False),
        ("a\n", False),
        ("", False),
        (7, False),
        ("a..b", False),
        ("x" * 97, False),
    ],
)
def test_a_hubs_name_has_its_grammar(name: Any, fits: bool) -> None:
    assert hub_name(name) == (name if fits else None)


@pytest.mark.parametrize(
    ("revision", "fits"),
    [
        ("main", True),
        ("e2da8e2f811d1448a5b465c236feacd80ffbac7b", True),
        ("refs/pr/1", True),
        ("v1.0", True),
        ("a b", False),
        ("'", False),
        ("../x", False),
        ("a..b", False),
        ("main\n", False),
        (None, False),
        ("x" * 201, False),
    ],
)
def test_a_revision_has_its_grammar(revision: Any, fits: bool) -> None:
    assert hub_revision(revision) == (revision if fits else None)


def test_ranks_in_the_file_that_differ_from_the_plans_make_the_configuration() -> None:
    in_file = {name: 4 * rank for name, rank in RANKS.items()}  # as of four filled-up blocks
    run = {**RUN, "ranks": {"end": RANKS, "in_peft_file": in_file}}
    found = adapter_config(in_file, "FacebookAI/roberta-base", ["classifier"])
    assert rebuilt(run, found) == found
    with pytest.raises(UserError, match=r"do not follow from the ranks in run\.json"):
        rebuilt(run, GOOD)
