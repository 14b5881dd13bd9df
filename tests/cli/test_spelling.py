"""Paths and names as they are typed: Hydra reads each whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dora.cli.spelling import in_grammar, plain, quoted
from runs import refused, typed

# Each means something else to Hydra's grammar than its letters, or to a shell, or to YAML.
ODD = [
    "a b",
    "a=1e-4",
    "run #3",
    "(a)",
    "[b]",
    "{c}",
    "a,b",
    "a:b",
    "$HOME",
    "it's",
    'say "so"',
    "back\\slash",
    "end\\",
    "jörg",
    "日本",
    "123",
    "1e3",
    "true",
    "a\\=b",
    "choice(a)",
]


def shown(*words: str) -> dict:
    """Returns the configuration that a command line gives."""
    code, out, err = typed("--cfg", "job", *words)
    assert code == 0, err
    return yaml.safe_load(out)


@pytest.mark.parametrize("first", range(0, len(ODD), 4))
def test_a_path_is_taken_as_it_is_typed(first: int) -> None:
    results, data, model, start = ODD[first : first + 4]
    config = shown(
        f"results={results}", f"data.dir=/x/{data}", f"model.path={model}", f"+init_from={start}"
    )
    assert config["results"] == results
    assert config["data"]["dir"] == f"/x/{data}"
    assert config["model"]["path"] == model
    assert config["init_from"] == start


@pytest.mark.parametrize("name", ["2024_01", "1e3", "true", "mine"])
def test_a_name_is_taken_as_it_is_typed(name: str) -> None:
    config = shown(f"data.name={name}", f"model.name={name}", f"model.revision={name}")
    assert (config["data"]["name"], config["model"]["name"]) == (name, name)
    assert config["model"]["revision"] == name
    written = in_grammar(f"data.name={name},b", sweeping=True)
    (override,) = OverridesParser.create().parse_overrides([written])
    (first, _) = BasicSweeper.split_arguments([override], None)[0]
    assert in_grammar(plain(first[0]), False) == in_grammar(f"data.name={name}", False)


def test_a_home_is_expanded_in_quotes_and_without() -> None:
    words = [
        "results=~/x (1)",
        "data.dir='~/x (1)'",
        'model.path="~/x (1)"',
        "init_from=${oc.env:HOME}/x (1)",
    ]
    code, out, err = typed("--cfg", "job", "--resolve", *words, env={"HOME": "/home/jörg"})
    assert code == 0, err
    config = yaml.safe_load(out)
    paths = {config["results"], config["data"]["dir"], config["model"]["path"], config["init_from"]}
    assert paths == {"/home/jörg/x (1)"}


def test_a_home_in_a_users_yaml_is_expanded_too(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nmodel:\n  path: ~/nobody's\ndata:\n  dir: ~nobody_here/x\n"
    )
    # Hydra reads the file, so no path of it comes through `in_grammar`.
    problems = refused(f"--config-dir={tmp_path}", "experiment=mine", "data=dir", HOME="/home/jörg")
    assert any(p.startswith("model folder /home/jörg/nobody's does not exist") for p in problems)
    assert any("there is no home ~nobody_here" in p for p in problems)


@pytest.mark.parametrize(
    ("value", "folders"),
    [
        ("~/a,~/b", ["/h/a", "/h/b"]),
        ("'~/a,b',c=d", ["/h/a,b", "c=d"]),
        ("${oc.env:NO,x}/(a), b", ["x/(a)", "b"]),
        ("choice(a,b)", ["a", "b"]),
    ],
)
def test_in_a_sweep_a_comma_separates_paths_unless_it_is_quoted(
    value: str, folders: list[str]
) -> None:
    # No such folder is there: each message names one path that the sweep was split into.
    problems = refused("-m", f"model.path={value}", HOME="/h")
    assert [p.partition(" does not exist")[0] for p in problems] == [
        f"model folder {os.path.abspath(f)}" for f in folders
    ]


@settings(max_examples=50, deadline=None)
@example(' ""')  # a space before what Hydra reads as quotes
@given(st.text(alphabet="ab~=#()[]{}:,$'\"\\ é\t/.-_1?*|%@!&;\n", min_size=1))
def test_whatever_a_path_is_hydra_reads_it_whole(path: str) -> None:
    parser = OverridesParser.create()
    assert parser.parse_override(f"results={quoted(path)}").value() == path
    if path[0] not in "'\"":  # what stands in quotes is Hydra's own
        expected = os.path.expanduser(path)
        assert parser.parse_override(in_grammar(f"results={path}", False)).value() == expected


@pytest.mark.parametrize(
    "folder", ["/t/a b", "/t/a\\b\\", "/t/${seed}", '/t/q"q', "/t/(x)[1]=#", "/t/it's"]
)
def test_what_hydras_sweeper_writes_of_a_path_is_spelled_as_it_is_typed(folder: str) -> None:
    # Hydra's own splitting is the oracle: its escapes are an implementation's, not documented.
    typed = in_grammar(f"results={quoted(folder)}", sweeping=True)
    (override,) = OverridesParser.create().parse_overrides([typed])
    (written,) = BasicSweeper.split_arguments([override], None)[0]
    again = plain(written[0])
    assert in_grammar(again, sweeping=False) == in_grammar(f"results={folder}", sweeping=False)
    assert plain(again) == again
