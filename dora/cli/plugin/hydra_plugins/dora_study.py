"""Extends Hydra's basic sweeper: skips runs that are done, checks all others before one starts.

Hydra finds its plugins in this namespace package only. It imports them at every start, `--help`
included, so everything heavy is imported where it is needed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from hydra.errors import HydraException

if TYPE_CHECKING:
    from dora.cli.composer import Composer
    from dora.cli.sweep import Sweep


class StudySweeper(BasicSweeper):
    """Launches those runs of a grid that are not done, with whatever launcher is chosen.

    A run that fails does not stop the others. At its end the sweep says how each run ended, and
    raises if not all of them are done.
    """

    def sweep(self, arguments: list[str]) -> Any:
        """Trains the grid that `arguments`, and the sweeper's own `params`, span."""
        self._train(self._grid(arguments), self._composer())

    def _composer(self) -> Composer:
        """Returns what composes the configurations of many runs fast."""
        from dora.cli.composer import Composer

        assert self.hydra_context is not None
        return Composer(self.hydra_context.config_loader, self.config)

    def _train(self, jobs: list[list[str]], compose: Composer, search: bool = False) -> Sweep:
        """Trains those of these runs that are not done; raises if one of them does not end.

        `search`: as in `dora.cli.sweep.Sweep`.
        """
        from dora.cli import sweep
        from dora.cli.line import options_of
        from dora.cli.spelling import quoted
        from dora.process.signals import outside

        assert self.config is not None
        options = options_of(self.config.hydra)
        said = self._problems()
        study = sweep.plan(jobs, compose, options, self._is_local(), search=search, said=said)
        pending = study.begin()
        named = [
            [*words, f"hydra.job.name={quoted(label)}"]
            for words, label in zip(pending, study.labels(pending), strict=True)
        ]
        returns, lost = [], None
        try:
            if pending:
                with study.said_in_lines(Path(self.config.hydra.sweep.dir), pending):
                    returns = self._launch(named)
        except Exception as e:  # a worker or a cluster's job ended without an answer
            lost = None if outside.stopping else e
        # `job.return_value` would raise the error of a failed job, and print Hydra's own report.
        failures = {
            tuple(words): job._return_value
            for words, job in zip(pending, returns, strict=False)
            if job.status == JobStatus.FAILED
        }
        study.end(failures, lost)
        return study

    def _grid(self, arguments: list[str]) -> list[list[str]]:
        """Returns the words of every run of the grid. Raises HydraException if there is none.

        Raises UserError in one of several processes, before any of them plans runs.
        """
        from dora.cli.spelling import plain
        from dora.errors import UserError
        from dora.process.requirements import sweep_problems

        if problems := sweep_problems(os.environ):
            raise UserError(*problems)
        assert self.hydra_context is not None
        params = [f"{key}={value}" for key, value in self.params.items()]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        # If a key comes twice the last one counts: what was typed wins over an experiment's grid.
        overrides = parser.parse_overrides([*params, *arguments])
        try:
            (jobs,) = self.split_arguments(overrides, None)
        except ValueError as e:  # Python's own range() with a step of 0
            raise HydraException(str(e)) from e
        if not jobs:
            raise HydraException("a setting of this sweep has no value")
        return [[plain(word) for word in job] for job in jobs]

    def _problems(self) -> list[str]:
        """Returns a message for a number of processes that the local launcher would refuse."""
        if not self._in_workers() or self.launcher.joblib["n_jobs"] != 0:  # type: ignore[union-attr]
            return []
        return [
            "hydra.launcher.n_jobs=0 must be a number of processes from 1, or -1 for one on each core"
        ]

    def _is_local(self) -> bool:
        """Tells whether the launcher trains on this machine, not through a cluster's queue."""
        return type(self.launcher).__name__ in ("BasicLauncher", "JoblibLauncher")

    def _in_workers(self) -> bool:
        """Tells whether the launcher trains in several processes on this machine."""
        return type(self.launcher).__name__ == "JoblibLauncher"

    def _launch(self, jobs: list[list[str]]) -> Any:
        """Has the launcher run the jobs.

        After a signal the runs in training end their step, and no other run begins.
        """
        from dora.process.orphan import begin_worker
        from dora.process.signals import outside
        from dora.records.study import command_over

        assert self.launcher is not None
        # The jobs of a cluster hear of signals from the cluster, and train on without this process.
        if not self._is_local():
            assert self.config is not None
            shown = command_over(Path(self.config.results), "status")
            then = f"; the jobs that were submitted go on, unless scancel ends them: {shown}"
            with outside.saying(then):
                return self.launcher.launch(jobs, initial_job_idx=0)
        if in_workers := self._in_workers():
            # Hydra's launcher passes its configuration on to joblib.Parallel.
            self.launcher.joblib["initializer"] = begin_worker  # type: ignore[attr-defined]
        with outside.launching(workers=in_workers):
            return self.launcher.launch(jobs, initial_job_idx=0)
