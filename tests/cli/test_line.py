"""Options wherever they stand, and commands that mean the same when pasted."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hydra import compose

from dora.cli.choices import composing
from dora.cli.line import options_of, read
from dora.cli.sweep import plan
from dora.errors import UserError
from dora.package import __version__
from dora.records import study
from dora.records.directories import directories
from runs import configure, refused, typed


@pytest.mark.parametrize("path", ["it's lr=1,2 (a)", 'jörg/$x#1 "\\'])
def test_a_printed_command_pasted_into_bash_means_the_same(path: str, tmp_path: Path) -> None:
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
    for folder, options in ((str(tmp_path), (f"--config-dir={tmp_path}",)), (None, ())):
        with composing(folder):
            hydra = compose("config", return_hydra_config=True).hydra
        assert options_of(hydra) == options


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
        (
            ["hydra/launcher=slurm", "task=rte"],
            "hydra/launcher=slurm: a launcher begins the runs of a sweep; add -m, also for a single",
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


def test_a_package_that_there_is_none_of_is_a_bad_configuration() -> None:
    code, out, err = typed("--cfg", "job", "-p", "nope")
    assert (code, out) == (2, "")
    assert "nope" in err


def test_a_config_dir_that_is_empty_or_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--config-dir= is no folder"):
        read(["--config-dir=", "task=rte"])
    with pytest.raises(UserError, match="--config-dir is given 2 times"):
        read(["--config-dir", str(tmp_path), "-cd", str(tmp_path), "task=rte"])
