"""adapter_config.json of an export: made from the run's ranks, whatever the run's own file holds."""

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


# The two entries that are read from the file, since run.json does not have both.
@pytest.mark.parametrize(
    "change",
    [
        {"modules_to_save": None},
        {"modules_to_save": ["a b"]},
        {"modules_to_save": "classifier"},
        {"modules_to_save": [7]},
        {"base_model_name_or_path": "evil/model"},
        {"base_model_name_or_path": None},
        {"base_model_name_or_path": "/etc"},
        {"base_model_name_or_path": "\x1b[2J"},  # would clear the terminal it is shown on
    ],
    ids=str,
)
def test_a_base_model_or_a_head_that_no_run_writes_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError) as e:
        rebuilt(RUN, {**GOOD, **change})
    assert all(problem.isprintable() for problem in e.value.problems)
    assert next(iter(change)) in str(e.value) or "base model" in str(e.value)


# PEFT follows every key, and takes a pattern like this one exponential time to match.
@pytest.mark.parametrize(
    "change",
    [
        {"auto_mapping": {"base_model_class": "x", "parent_library": "evil"}},
        {"use_dora": True},
        {"r": 10**9},
        {"target_modules": "(a+)+$"},
        {"peft_type": "VERA"},
    ],
    ids=str,
)
def test_nothing_else_of_the_file_goes_on_into_an_export(change: dict[str, Any]) -> None:
    assert rebuilt(RUN, json.loads(json.dumps({**GOOD, **change}))) == GOOD


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
    "another's": lambda path: path.write_text(json.dumps({**GOOD, "modules_to_save": "x"})),
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
