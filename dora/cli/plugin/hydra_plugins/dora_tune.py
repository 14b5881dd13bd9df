"""Searches settings before a study: a sweep of candidates, in rounds."""

from __future__ import annotations

from typing import Any

from hydra_plugins.dora_study import StudySweeper


class TuneSweeper(StudySweeper):
    """Launches rounds of candidates until each search of the grid has all of its own.

    `candidates`: of each method, task and budget. `seeds`: of each candidate.
    """

    def __init__(self, candidates: int, seeds: list[int], **rest: Any) -> None:
        super().__init__(**rest)
        self.candidates, self.seeds = candidates, list(seeds)

    def sweep(self, arguments: list[str]) -> Any:
        """Searches for the grid that `arguments`, and the sweeper's own `params`, span."""
        from dora.cli.tuning import Tuning

        compose = self._composer()
        tuning = Tuning(self._grid(arguments), compose, self.candidates, self.seeds, arguments)
        while jobs := tuning.jobs():
            print(tuning.round_in_words(), flush=True)
            tuning.take(self._train(jobs, compose, search=True).folders)
        print(*tuning.write(), sep="\n")
