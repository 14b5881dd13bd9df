"""Hydra's basic sweeper, taught what a study is: done runs are skipped, the rest checked before any starts.

Hydra finds its plugins in this namespace package only. It imports them at every start, so that everything
heavy is imported where it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from omegaconf import open_dict

if TYPE_CHECKING:
    from dora.config import Config


class StudySweeper(BasicSweeper):
    """Launches those runs of a grid that are not done, by whatever launcher is chosen.

    One that fails does not stop the others. Ends with what became of each, and raises where not all are done.
    """

    def sweep(self, arguments: list[str]) -> Any:
        """Trains the grid that `arguments`, and the sweeper's own `params`, span."""
        from dora import sweep

        assert self.hydra_context is not None
        assert self.launcher is not None
        params = [f"{key}={value}" for key, value in self.params.items()]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*params, *arguments])  # of one key the last counts
        (jobs,) = self.split_arguments(overrides, None)
        study = sweep.plan(jobs, self._compose)
        pending = study.begin()
        failures: dict[tuple[str, ...], BaseException] = {}
        lost = None
        try:
            returns = self.launcher.launch(pending, initial_job_idx=0) if pending else []
        except Exception as e:  # a worker or a cluster's job that ended without an answer
            returns, lost = [], e
        for words, job in zip(pending, returns, strict=False):
            if (
                job.status == JobStatus.FAILED
            ):  # job.return_value would raise it, and print Hydra's view of it
                failures[tuple(words)] = job._return_value
        study.end(failures, lost)
        return returns

    def _compose(self, words: Sequence[str]) -> Config:
        from dora.config import from_hydra

        assert self.hydra_context is not None
        assert self.config is not None
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(words))
        with open_dict(cfg):
            del cfg["hydra"]
        return from_hydra(cfg)
