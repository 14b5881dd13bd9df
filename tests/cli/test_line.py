"""Options wherever they stand, paths as they are typed, commands that mean the same when pasted."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dora.cli.line import in_grammar, plain, quoted, read
from dora.cli.sweep import plan
from dora.errors import UserError
from dora.package import __version__
from dora.records import study
from dora.records.directories import directories
from runs import configure, refused, typed

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


@pytest.mark.parametrize("path", ["it's lr=1,2 (a)", 'jörg/$x#1 "\\'])
def test_a_printed_command_pasted_into_bash_means_the_same(path: str, tmp_path: Path) -> None:
    from dora.cli.line import read

    (tmp_path / "my conf").mkdir()
    line = read(
        [f"--config-dir={tmp_path}/my conf", f"results={tmp_path}/{path}", "task=rte", "target=q,v"]
    )
    config = configure(*line.overrides)
    sweep = plan([line.overrides], lambda words: configure(*words), tuple(line.words()[:1]))
    sweep.begin()
    (folder,) = directories(tmp_path / path)
    assert json.loads((folder / "run.json").read_text())["words"] == line.words()
    command = study.look(folder).command
    # bash itself takes the quotes off, one argument a line: no path here has a line break.
    bash = ["bash", "-c", command.replace("python -m dora.run", r"printf '%s\n'")]
    again = read(
        subprocess.run(bash, capture_output=True, text=True, check=True).stdout.splitlines()
    )
    assert again == line
    assert configure(*again.overrides) == config


def test_a_run_knows_the_options_that_its_command_needs(tmp_path: Path) -> None:
    from dora.cli.choices import composing
    from dora.cli.line import options_of

    for folder, options in ((str(tmp_path), (f"--config-dir={tmp_path}",)), (None, ())):
        with composing(folder):
            hydra = compose("config", return_hydra_config=True).hydra
        assert options_of(hydra) == options


@settings(max_examples=50, deadline=None)
@example(' ""')  # a space before what Hydra reads as quotes
@given(st.text(alphabet="ab~=#()[]{}:,$'\"\\ é\t/.-_1?*|%@!&;\n", min_size=1))
def test_whatever_a_path_is_hydra_reads_it_whole(path: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from dora.cli.line import in_grammar, quoted

    parser = OverridesParser.create()
    assert parser.parse_override(f"results={quoted(path)}").value() == path
    if path[0] not in "'\"":  # what stands in quotes is Hydra's own
        expected = os.path.expanduser(path)
        assert parser.parse_override(in_grammar(f"results={path}", False)).value() == expected


@pytest.mark.parametrize(
    "words",
    [
        ["task=x,rte", "-m"],
        ["seed=1", "--multirun", "task=x,rte"],
    ],
)
def test_m_stands_anywhere_on_the_line(words: list[str]) -> None:
    (problem,) = refused(*words)
    assert problem.startswith("task=x: choose task from cola")


def test_the_version_is_ours() -> None:
    assert typed("--version") == (0, f"dora-glue {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--foo"], "unrecognized arguments: --foo; settings are written key=value"),
        (["--task", "sst2"], "unrecognized arguments: --task (write task=sst2); settings"),
        # The settings after an unknown option are no options.
        (
            ["task=sst2", "--rates_from=x", "results=Y"],
            "unrecognized arguments: --rates_from=x (write rates_from=x); settings",
        ),
        (
            ["-m", "hydra/sweeper=tune", "--results", "F", "task=rte"],
            "--results (write results=F); settings are written key=value, and the options are "
            "--candidates NUMBER, --seeds",
        ),
        (["--cfg"], "--cfg: expected one argument"),
        (["--cfg", "me"], "invalid choice: 'me'"),
        (["--config-dir", "/no/where"], "--config-dir=/no/where is no folder"),
        (["--config-path", "x"], "--config-dir FOLDER adds your own files"),
        (["-cn", "x"], "--config-dir FOLDER experiment=mine"),
        (["--experimental-rerun", "x"], "reads a pickle"),
        (["--cfg", "job", "-m"], "--cfg and -m cannot go together; --cfg shows one configuration"),
        (["-m", "--info"], "--info and -m cannot go together"),
        (
            ["--cfg", "job", "seed=1,2"],
            "seed=1,2: --cfg shows one configuration, so give one value",
        ),
        (["--resolve"], "--resolve goes with --cfg job"),
        (["-p", "method"], "--package goes with --cfg job"),
        (
            ["hydra/sweeper=tune"],
            "hydra/sweeper=tune is a search, of many runs: python -m dora.tune",
        ),
        (["--shell-completion", "install=bash"], "--help lists keys and choices"),
    ],
)
def test_an_option_that_cannot_be_had_gets_one_message(words: list[str], part: str) -> None:
    (problem,) = refused(*words)
    assert part in problem


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--hydra-help"], "Hydra"),
        (["--info", "searchpath"], "conf"),
        (["--cfg", "hydra", "-p", "hydra.sweep"], "multirun"),
    ],
)
def test_what_hydra_shows_is_still_shown(words: list[str], part: str) -> None:
    code, out, err = typed(*words)
    assert code == 0, err
    assert part in out


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


def test_a_package_that_there_is_none_of_is_a_bad_configuration() -> None:
    code, out, err = typed("--cfg", "job", "-p", "nope")
    assert (code, out) == (2, "")
    assert "nope" in err


def test_a_config_dir_that_is_empty_or_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--config-dir= is no folder"):
        read(["--config-dir=", "task=rte"])
    with pytest.raises(UserError, match="--config-dir is given 2 times"):
        read(["--config-dir", str(tmp_path), "-cd", str(tmp_path), "task=rte"])
