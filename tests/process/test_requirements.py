"""Checks of a run's shell and machine: W&B's key, and a process group that really exists."""

from __future__ import annotations

import functools
import importlib.machinery
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dora.configuration.config import Config
from dora.errors import UserError
from dora.preparing.prepare import prepare
from runs import configure, refused

NO_KEY = (
    "wandb=online finds no API key: run `wandb login`, set WANDB_API_KEY, or write wandb=offline"
)


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Makes a home without keys, and gives the settings of a stand-in for wandb.

    The real one takes a second to import.
    """
    own = SimpleNamespace(api_key=None, base_url="https://wandb.example")
    wandb: Any = ModuleType("wandb")
    wandb.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    wandb.setup = lambda: SimpleNamespace(settings=own)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (
        "WANDB_API_KEY",
        "WANDB_IDENTITY_TOKEN_FILE",
        "NETRC",
        "WORLD_SIZE",
        "RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
    ):
        monkeypatch.delenv(name, raising=False)
    forget()
    yield own
    forget()


@functools.cache
def online() -> Config:
    """Returns the configuration of a run that is tracked online."""
    return configure("wandb=online", "task=wnli")


@functools.cache
def untracked() -> Config:
    """Returns the configuration of a run that is not tracked."""
    return configure("task=wnli")


def forget() -> None:
    """Clears the cached answer whether there is a key: a process looks only once."""
    requirements = sys.modules.get("dora.process.requirements")
    if requirements is not None:
        requirements._has_wandb_key.cache_clear()


def test_tracking_online_without_a_key_is_refused_once_a_sweep(tmp_path: Path) -> None:
    assert refused(
        "-m", "wandb=online", "task=wnli", "method=lora,full", "seed=1,2", f"results={tmp_path}"
    ) == [NO_KEY]


@pytest.mark.parametrize("place", ["environment", "netrc", "another netrc", "settings"])
def test_a_key_is_found_where_wandb_finds_it(
    place: str, settings: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="finds no API key"):
        prepare(online())
    forget()
    if place == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "key")
    elif place == "settings":
        settings.api_key = "key"
    else:
        file = tmp_path / (".netrc" if place == "netrc" else "elsewhere")
        file.write_text("machine wandb.example\n  login user\n  password key\n")
        file.chmod(0o600)
        if place == "another netrc":
            monkeypatch.setenv("NETRC", str(file))
    prepare(online())


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (
            {"WORLD_SIZE": "4"},
            "WORLD_SIZE=4 is in the environment without RANK, MASTER_ADDR, MASTER_PORT",
        ),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "without MASTER_ADDR, MASTER_PORT"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "RANK=2 in the environment must lie",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "first", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "RANK=first",
        ),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two in the environment must be a number of processes"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE= in the environment must be a number of processes"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 in the environment must be a number of processes"),
    ],
)
def test_what_another_job_left_in_the_environment_is_refused(
    left: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="unset WORLD_SIZE") as caught:
        prepare(untracked())
    (problem,) = caught.value.problems
    assert said in problem


@pytest.mark.parametrize(
    "set_by",
    [
        {},
        {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
    ],
)
def test_what_torchrun_sets_is_taken(
    set_by: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in set_by.items():
        monkeypatch.setenv(name, value)
    prepare(untracked())
