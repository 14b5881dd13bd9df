"""Hydra's basic sweeper, taught what a study is: done runs are skipped, the rest checked before any starts.

Hydra finds its plugins in this namespace package only. It imports them at every start, so that everything
heavy is imported where it is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from dora.config import Config


class StudySweeper(BasicSweeper):
    """Launches those runs of a grid that are not done, by whatever launcher is chosen.

    One that fails does not stop the others. Ends with what became of each, and raises where not all are done.
    """

    def sweep(self, arguments: list[str]) -> Any:
        """Trains the grid that `arguments`, and the sweeper's own `params`, span."""
        from dora.cli import sweep
        from dora.cli.line import options_of, plain
        from dora.process.signals import outside

        assert self.hydra_context is not None
        assert self.launcher is not None
        assert self.config is not None
        params = [f"{key}={value}" for key, value in self.params.items()]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*params, *arguments])  # of one key the last counts
        try:
            (jobs,) = self.split_arguments(overrides, None)
        except ValueError as e:  # Python's own range() with a step of 0
            raise HydraException(str(e)) from e
        if not jobs:
            raise HydraException("a setting of this sweep has no value")
        jobs = [[plain(word) for word in job] for job in jobs]
        compose = Composer(self.hydra_context.config_loader, self.config)
        study = sweep.plan(jobs, compose, options_of(self.config.hydra))
        pending = study.begin()
        failures: dict[tuple[str, ...], BaseException] = {}
        lost = None
        named = [
            [*words, f"hydra.job.name={quoted(label)}"]
            for words, label in zip(pending, study.labels(pending), strict=True)
        ]
        try:
            returns = self._launch(named) if pending else []
        except Exception as e:  # a worker or a cluster's job that ended without an answer
            returns, lost = [], None if outside.stopping else e
        for words, job in zip(pending, returns, strict=False):
            if (
                job.status == JobStatus.FAILED
            ):  # job.return_value would raise it, and print Hydra's view of it
                failures[tuple(words)] = job._return_value
        study.end(failures, lost)
        return returns

    def _launch(self, jobs: list[list[str]]) -> Any:
        """Has the launcher run the jobs; a signal lets those that train end their step, and no other begins."""
        from dora.process.orphan import begin_worker
        from dora.process.signals import outside

        assert self.launcher is not None
        kind = type(self.launcher).__name__
        local = kind == "JoblibLauncher"
        if (
            kind != "BasicLauncher" and not local
        ):  # a cluster's jobs hear of signals from the cluster
            return self.launcher.launch(jobs, initial_job_idx=0)
        if local:
            self.launcher.joblib["initializer"] = begin_worker  # type: ignore[attr-defined]  # joblib.Parallel's
        with outside.launching(workers=local):
            return self.launcher.launch(jobs, initial_job_idx=0)


def quoted(text: str) -> str:
    """`text` as one value of Hydra's grammar."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


class Composer:
    """What Hydra composes from words, sooner: a grid has few choices of groups (task=…) and many values.

    Hydra takes a tenth of a second for each composition and sets plain values last of all. So each choice is
    composed once, and values are set on a copy of it.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self._loader, self._config = loader, config
        self._parser = OverridesParser.create(config_loader=loader)
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._groups: dict[str, bool] = {}

    def __call__(self, words: Sequence[str]) -> Config:
        """The configuration. Raises what Hydra and OmegaConf raise where a word does not fit."""
        from dora.config import from_hydra

        overrides = self._parser.parse_overrides(list(words))
        values = [
            o
            for o in overrides
            if o.type == OverrideType.CHANGE and not self._group(o.key_or_group)
        ]
        choices = tuple(str(o.input_line) for o in overrides if o not in values)
        if choices not in self._composed:
            cfg = self._loader.load_sweep_config(self._config, list(choices))
            with open_dict(cfg):
                del cfg["hydra"]
            self._composed[choices] = cfg
        cfg = copy.deepcopy(self._composed[choices])
        for o in values:
            OmegaConf.update(cfg, o.key_or_group, o.value(), merge=True)
        return from_hydra(cfg)

    def _group(self, key: str) -> bool:
        if key not in self._groups:
            self._groups[key] = bool(self._loader.get_group_options(key))
        return self._groups[key]
