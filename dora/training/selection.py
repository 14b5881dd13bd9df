"""Which evaluation of a run is its best, and when a run has gone on long enough without a better
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dora.adapters.result import snapshot


def counts_from(total_steps: int, ranks_final_at: int) -> int:
    """Returns the step from which evaluations count for `best`: in the second half, once ranks are
    final.

    It is the same step for every method: AdaLoRA's last allocation is two steps past half.
    """
    return min(total_steps, max((total_steps + 1) // 2 + 2, ranks_final_at))


@dataclass
class Selection:
    """The best evaluation so far, with its weights.

    `best`: its step, its score (None where no metric is defined) and all its metrics. `tensors`:
    the run's result at that step, on the CPU. `worse`: evaluations since then. `evaluations`: all
    that counted.
    """

    counts_from: int
    patience: int | None
    best: dict[str, Any] | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    worse: int = 0
    evaluations: int = 0

    def offer(
        self,
        step: int,
        score: float | None,
        metrics: dict[str, Any],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Takes an evaluation into account, and copies `tensors` where it is the best so far.

        Of equal scores the first stays. A defined score beats an undefined one.
        """
        if step < self.counts_from:
            return
        self.evaluations += 1
        before = None if self.best is None else self.best["score"]
        better = score is not None and (before is None or score > before)
        if self.best is None or better:
            self.best = {"step": step, "score": score, "metrics": metrics}
            self.tensors = snapshot(tensors)
            self.worse = 0
        else:
            self.worse += 1

    @property
    def out_of_patience(self) -> bool:
        """Whether so many evaluations were no better that training ends."""
        return self.patience is not None and self.worse >= self.patience

    def label(self) -> dict[str, Any]:
        """Returns all but the tensors as JSON, for a checkpoint's label."""
        return {"best": self.best, "worse": self.worse, "evaluations": self.evaluations}

    def take_up(self, label: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
        """Goes on from a checkpoint's `label` and the best weights in it."""
        self.best, self.worse = label["best"], label["worse"]
        self.evaluations, self.tensors = label["evaluations"], tensors
