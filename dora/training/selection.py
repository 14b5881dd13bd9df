"""Selection of a run's best evaluation, and the end of a run that finds no better one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dora.adapters.result import snapshot


def counts_from(total_steps: int, ranks_final_at: int) -> int:
    """Returns the step from which evaluations count for `best`: in the second half of the run.

    It is one step for all methods with default settings. A method whose ranks are final later
    counts from there, so that the best weights never hold components yet to be pruned.
    """
    # + 2: AdaLoRA's last allocation is two steps past half, and other methods must not choose from
    # more evaluations than it does.
    return min(total_steps, max((total_steps + 1) // 2 + 2, ranks_final_at))


@dataclass
class Selection:
    """The best evaluation so far, with its weights.

    `best`: its step, its score (None if the metric is undefined), all its metrics and the losses of
    the scored splits. `tensors`: the run's result at that step, on the CPU. `worse`: the number of
    evaluations since then. `evaluations`: the number of evaluations that counted.
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
        losses: dict[str, float],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Takes an evaluation into account, and copies `tensors` if it is the best so far.

        The first of equal scores stays best. A defined score beats an undefined one.
        """
        if step < self.counts_from:
            return
        self.evaluations += 1
        before = None if self.best is None else self.best["score"]
        better = score is not None and (before is None or score > before)
        # The first one is kept even without a score, so that there always is a best evaluation.
        if self.best is None or better:
            self.best = {"step": step, "score": score, "metrics": metrics, "losses": losses}
            self.tensors = snapshot(tensors)
            self.worse = 0
        else:
            self.worse += 1

    @property
    def out_of_patience(self) -> bool:
        """True once `patience` evaluations in a row were no better than the best."""
        return self.patience is not None and self.worse >= self.patience

    def label(self) -> dict[str, Any]:
        """Returns everything but the tensors as JSON, for a checkpoint's label."""
        return {"best": self.best, "worse": self.worse, "evaluations": self.evaluations}

    def take_up(self, label: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
        """Restores the selection from a checkpoint's label and its best weights."""
        self.best, self.worse = label["best"], label["worse"]
        self.evaluations, self.tensors = label["evaluations"], tensors
