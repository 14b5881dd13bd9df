"""Composing and running small experiments in this process, for the tests of whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import dora.run
from dora import experiment
from dora.config import Config, from_hydra, register
from dora.prepare import prepare

SMALL = (
    "task=wnli",
    "limit_train=96",
    "max_steps=24",
    "batch_size=8",
    "eval_every=6",
    "threads=1",
    "max_length=48",
)


def configure(*overrides: str) -> Config:
    """The configuration that these command-line words give."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(dora.run.CONF), version_base="1.3"):
        return from_hydra(compose("config", overrides=list(overrides)))


def small(results: Path, *overrides: str) -> Config:
    """A run of 24 steps on the embedded model and data, about a second."""
    return configure(*SMALL, f"results={results}", *overrides)


def run(config: Config) -> dict[str, Any]:
    """run.json of this configuration, trained here and now."""
    return experiment.run(prepare(config))


def only_run(results: Path) -> Path:
    """The directory of the one run under `results`."""
    (found,) = results.glob("runs/*/*/*/*/*/*/s*")
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    """A .jsonl file's events."""
    return [json.loads(line) for line in path.read_text().splitlines()]
