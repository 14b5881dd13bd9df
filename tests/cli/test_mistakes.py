"""Mistakes on the command line: each has one message, which says what to write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dora
from runs import refused, typed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=1,"], ["seed=1,: a value is missing beside a comma"]),
        (["-m", "task=,rte"], ["task=,rte: a value is missing beside a comma"]),
        (["sst2"], ["sst2: settings are written key=value, such as task=sst2"]),
        (
            ["+=3", "lr=fast"],
            ["+=3: settings are written key=value, such as task=sst2", "lr=fast: Value 'fast'"],
        ),
        (["jörg=1"], ["jörg=1: jörg is no key; --help lists the keys"]),
        (["budget=a(b"], ["""as one value write 'budget="a(b"'"""]),
        (
            ["-m", "head_lr=interval(0, 1)"],
            ["this sweeper takes lists (1,2), range() and choice(), no interval()"],
        ),
        (["-m", "seed=range(1, 3, 0)"], ["seed=range(1, 3, 0): range() arg 3 must not be zero"]),
        (
            ["-m", "seed=range(2, 2)", "task=glob(rt*)", "lr=slow"],
            ["seed=range(2, 2): there is no value in it", "lr=slow: Value"],
        ),
        (["model.path=a${b"], [r"write \${ for the signs themselves"]),
        (
            ["epochs=1e40"],
            ["epochs=1e40: Value '1e+40' of type 'float' could not be converted to Integer"],
        ),
    ],
)
def test_a_word_that_cannot_be_read_gets_one_message(words: list[str], said: list[str]) -> None:
    problems = refused(*words)
    assert len(problems) == len(said)
    for problem, part in zip(problems, said, strict=True):
        assert part in problem


def test_no_message_names_a_package_that_the_registry_lacks() -> None:
    root = Path(dora.__file__).parents[1]
    files = [root / "README.md", *dora.CONF.rglob("*.yaml"), *(root / "dora").rglob("*.py")]
    assert len(files) > 50
    assert not [f for f in files if re.search("install .?dora-glue", f.read_text(encoding="utf-8"))]


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """--config-dir with an experiment of a user's own, one that is broken, and a task's settings."""
    folder = tmp_path / "my conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\nepochs: 2\n")
    (folder / "broken.yaml").write_text("# @package _global_\nepochs: [\n")
    (folder / "bytes.yaml").write_bytes("# @package _global_\nepochs: 2\n".encode("utf-16"))
    (folder / "typo.yaml").write_text("# @package _global_\nepoch: 2\n")
    return f"--config-dir={folder.parent}"


def test_explanations_know_the_users_own_files(mine: str) -> None:
    (problem,) = refused(mine, "experiment=mine", "seed=abc")
    assert problem.startswith("seed=abc: ")
    (problem,) = refused(mine, "experiment=mind")
    assert problem.endswith(", mine, study_minilm, study_tiny, study_tiny_deberta, typo")


@pytest.mark.parametrize("name", ["broken", "bytes", "typo"])
def test_a_users_file_that_cannot_be_used_is_not_called_unknown(name: str, mine: str) -> None:
    (problem,) = refused(mine, f"experiment={name}")
    assert problem.startswith(f"experiment={name}: ")
    assert "choose experiment from" not in problem


def test_help_lists_the_users_own_files(mine: str) -> None:
    code, out, err = typed(mine, "--help", "-m", "seed=1,2")
    assert code == 0, err
    assert "\nexperiment: adalora_deberta_v3_base/cola" in out
    assert ", mine, " in out
