"""make uses the environment one is in where it has the suite, and makes .venv elsewhere."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
MAKES = "python3 -m venv"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Makes a folder with what the Makefile reads."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def environment(folder: Path, holds: bool, made: bool = False) -> Path:
    """Makes a stand-in of an environment, whose Python says whether the suite is installed."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f"#!/bin/sh\n{'echo 0.1.0' if holds else 'exit 1'}\n")
    python.chmod(0o755)
    if made:
        (folder / ".ready").touch()
    return folder


def make(checkout: Path, *words: str, dry: bool = True, **env: Path) -> str:
    """Returns the commands that make would run, or has run if not `dry`."""
    kept = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX", "VENV")}
    kept = {k: v for k, v in kept.items() if not k.startswith("MAKE")}
    done = subprocess.run(
        ["make", *(["-n"] if dry else []), *words],
        cwd=checkout,
        env={**kept, **{k: str(v) for k, v in env.items()}},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_fresh_machine_gets_an_environment_of_its_own(checkout: Path) -> None:
    for active in ({}, {"CONDA_PREFIX": environment(checkout / "base", holds=False)}):
        said = make(checkout, "test", **active)
        assert f"{MAKES} .venv" in said
        assert ".venv/bin/python -m pytest" in said
        assert "base" not in said


@pytest.mark.parametrize("name", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_active_environment_with_the_suite_is_used_as_it_is(name: str, checkout: Path) -> None:
    mine = environment(checkout / "mine", holds=True)
    said = make(checkout, "test", **{name: mine})
    assert said == f"{mine}/bin/python -m pytest -n 2\n"
    # Nor is it make's to remove.
    assert str(mine) not in make(checkout, "clean", **{name: mine})


def test_an_environment_that_is_named_is_used_and_made_only_where_it_lacks_the_suite(
    checkout: Path,
) -> None:
    mine = environment(checkout / "mine", holds=True)
    assert make(checkout, "check", "VENV=mine").startswith("mine/bin/ruff")
    assert f"{MAKES} new" in make(checkout, "test", "VENV=new", VIRTUAL_ENV=mine)


def test_the_environment_that_make_has_made_follows_the_requirements(checkout: Path) -> None:
    made = environment(checkout / ".venv", holds=True, made=True)
    for active in ({}, {"VIRTUAL_ENV": made}):
        assert MAKES not in make(checkout, "test", **active)
    os.utime(checkout / "requirements.txt", (2**32, 2**32))
    for active in ({}, {"VIRTUAL_ENV": made}):
        assert MAKES in make(checkout, "test", **active)
    assert "rm -rf .venv " in make(checkout, "clean")


def test_a_results_folder_with_spaces_is_one_argument(checkout: Path) -> None:
    env = environment(checkout / "own", holds=True)
    said = make(checkout, "tables", "figures", "report", "missing", "RESULTS=my runs", VENV=env)
    commands = [shlex.split(line) for line in said.splitlines() if "--results" in line]
    assert [words[words.index("--results") + 1] for words in commands] == ["my runs"] * 4


def test_clean_leaves_an_environment_that_make_has_not_made(checkout: Path) -> None:
    environment(checkout / ".venv", holds=True)
    assert ".venv" not in make(checkout, "clean")


def test_clean_keeps_all_runs_and_clean_runs_keeps_studies_in_folders_of_their_own(
    checkout: Path,
) -> None:
    kept = ["mine/runs/run.json", "study/runs.jsonl.gz", "README.md"]
    runs = ["runs/dir/run.json", "search/choices.json", "wandb/offline.log"]
    made = ["cache/rows.arrow", "tables/a.md", "figures/a.pdf", "report.html", "multirun/0/log"]
    for name in (*kept, *runs, *made):
        (checkout / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / "results" / name).touch()

    def left() -> set[str]:
        folder = checkout / "results"
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    make(checkout, "clean", dry=False)
    assert left() == {*kept, *runs}
    make(checkout, "clean-runs", dry=False)
    assert left() == set(kept)
