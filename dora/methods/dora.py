"""DoRA, dynamic rank distribution (Mao et al., ACL 2024, arXiv 2405.17357).

Not PEFT's `use_dora`, which is another paper's weight-decomposed DoRA (arXiv 2402.09353).

Training starts with ceil(1.5 r) components a matrix. A component's importance is its share of its
matrix's update, smoothed over steps; inside a window the least important are masked, more and more of
them, and at its end the set is final. The share compares components within a matrix, not across
matrices: the largest of r has a share of at least 1/r however small its matrix's update is, so the
method favours keeping one per matrix. That is the method, not an accident of this code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn

from dora.adapters import lowrank
from dora.adapters.allocation import allocate
from dora.adapters.budget import SHAPES, Budget, Matrix, Plan, pruned, pruning_plan, steps_of
from dora.methods.protocol import Allocation, fraction_or_steps, in_range


@dataclass
class Settings:
    """Defaults are the released code's. `prune_start`, `prune_end`, `prune_interval`: fractions of the run
    below 1, steps from 1. `dem`: weight of the dimensional equilibrium penalty (paper: 0.1 to 0.5 by task).
    `start_factor`: start rank over average end rank. `shape`: of the schedule; `remove`: whether components
    leave for good at the end of the window, or stay masked."""

    base_lr: float = 1.5e-4
    alpha: float = 8.0
    dropout: float = 0.1
    dem: float = 0.1
    beta: float = 0.9
    start_factor: float = 1.5
    prune_start: float = 0.15
    prune_end: float = 0.5
    prune_interval: float = 0.0125  # 1/80: 100 of CoLA's 8,025 steps in the released settings
    shape: str = "cubic_late"
    remove: bool = True

    def problems(self, total_steps: int | None) -> list[str]:
        """Every value out of range; with `total_steps`, a window without a step in it."""
        found = [
            *in_range("method.alpha", self.alpha, 1e-6, math.inf, "the released code uses 8"),
            *in_range("method.dropout", self.dropout, 0, 1, "the released code uses 0.1"),
            *in_range("method.dem", self.dem, 0, math.inf, "the paper uses 0.1 to 0.5"),
            *in_range("method.beta", self.beta, 0, 1, "the paper uses 0.9"),
            *in_range("method.start_factor", self.start_factor, 1, math.inf, "the paper uses 1.5"),
            *fraction_or_steps("method.prune_start", self.prune_start),
            *fraction_or_steps("method.prune_end", self.prune_end, zero=False),
            *fraction_or_steps("method.prune_interval", self.prune_interval, zero=False),
        ]
        if self.shape not in SHAPES:
            found.append(
                f"method.shape={self.shape} must be one of {', '.join(SHAPES)}; the released code's is cubic_late"
            )
        if total_steps is not None and not found:
            start, length = self.window(total_steps)
            if length < 1 or start + length > total_steps:
                found.append(
                    f"method.prune_start={self.prune_start} and method.prune_end={self.prune_end} leave no pruning "
                    f"window in a run of {total_steps} steps (it would span {start} to {start + length}); "
                    f"train longer or move the window"
                )
        return found

    def window(self, total_steps: int) -> tuple[int, int]:
        """(step at which t' = 0, length T'): 0.15 T rounded up and 0.35 T rounded toward zero.

        The released code has t' = int(step - 0.15 T), which is 0 for the first time at ceil(0.15 T).
        """
        if self.prune_start >= 1:
            start = int(self.prune_start)
        else:
            start = math.ceil(Fraction(str(self.prune_start)) * total_steps)
        if self.prune_start < 1 and self.prune_end < 1:
            width = Fraction(str(self.prune_end)) - Fraction(str(self.prune_start))
            return start, int(width * total_steps)
        return start, steps_of(self.prune_end, total_steps) - start


def shares(stack: lowrank.Stack) -> torch.Tensor:
    """Each component's share of its matrix's update, (m, R), ≥ 0 (eq. 5; eps 1e-8 as in the released code)."""
    A, g, B = stack.of("A"), stack.of("g"), stack.of("B").mT
    return lowrank.component_norms(A, g, B) / (lowrank.update_norm(A, g, B) + 1e-8).unsqueeze(-1)


def equilibrium(stack: lowrank.Stack) -> torch.Tensor:
    """Of each matrix the mean variance of the 2r vectors A[i, :] and B[:, i] (dimensional equilibrium
    modulator), unbiased: (m,)."""
    variances = stack.of("A").var(-1) + stack.of("B").var(-1)
    return variances.sum(-1) / (2 * stack.real.sum(-1))


class DoRA:
    """Steps are counted from 1, as the released code does."""

    def __init__(
        self,
        settings: Settings,
        model: nn.Module,
        plan: Plan,
        total_steps: int,
        generator: torch.Generator,
    ) -> None:
        self.settings, self.plan_ = settings, plan
        r0 = max(plan.start)
        self.layers = lowrank.adapt(
            model, plan.matrices, plan.start, settings.alpha / r0, settings.dropout, gated=True
        )
        for layer in self.layers.values():
            # kaiming_uniform_ with its default a = 0, for B too, whose fan-in is r0: B is the larger by far.
            bound_a, bound_b = math.sqrt(6 / layer.A.shape[1]), math.sqrt(6 / r0)
            nn.init.uniform_(layer.A, -bound_a, bound_a, generator=generator)
            nn.init.uniform_(layer.B, -bound_b, bound_b, generator=generator)
        self.start, self.length = settings.window(total_steps)
        self.interval = max(1, steps_of(settings.prune_interval, total_steps))
        self.settled = self.start + self.length if plan.start_total > plan.target else 0
        self.stacks = lowrank.stacks(self.layers.values())
        self._scores = [torch.zeros_like(stack.of("g")) for stack in self.stacks]
        self.final: list[torch.Tensor] | None = None

    @staticmethod
    def plan(settings: Settings, budget: Budget, matrices: tuple[Matrix, ...]) -> Plan:
        """ceil(1.5 r) components a matrix at the start, the budget at the end."""
        return pruning_plan(budget, matrices, settings.start_factor)

    def penalty(self, step: int) -> torch.Tensor | None:
        """DEM, the mean over matrices; nothing once pruning has ended."""
        if step > self.settled or self.settings.dem == 0:
            return None
        return self.settings.dem * torch.cat([equilibrium(stack) for stack in self.stacks]).mean()

    def budget_at(self, step: int) -> int:
        """What may live after step `step`, in the budget's unit, inside the window."""
        surplus = self.plan_.start_total - self.plan_.target
        gone, whole = pruned(self.settings.shape, surplus, step - self.start, self.length)
        return self.plan_.start_total - gone // whole

    def after_step(self, step: int) -> Allocation | None:
        """Scores every step up to the window's end; allocates every `interval` steps inside and at its end."""
        if step > self.settled:
            return Allocation(self.final, new=False) if self.final is not None else None
        with torch.no_grad():
            for score, stack in zip(self._scores, self.stacks, strict=True):
                # S ← β S + (1 − β) share, no bias correction
                score.lerp_(shares(stack), 1 - self.settings.beta)
        into = step - self.start
        if into < 0 or (into % self.interval and into != self.length):
            return None
        keep = allocate(self.scores, self.plan_.costs, self.budget_at(step))
        last = into == self.length
        if last and not self.settings.remove:
            self.final = keep
        return Allocation(keep, remove=last and self.settings.remove)

    @property
    def scores(self) -> list[torch.Tensor]:
        """The smoothed scores, (r,) per layer."""
        return lowrank.in_order(self.layers.values(), zip(self.stacks, self._scores, strict=True))

    def state(self) -> dict[str, torch.Tensor]:
        """The smoothed scores, and the final set where components stay masked to the end."""
        state = {"scores": torch.cat(self.scores)}
        return state if self.final is None else {**state, "final": torch.cat(self.final)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Takes up scores and final set, on the device where the layers are."""
        device = next(iter(self.layers.values())).A.device
        self._scores = [score.to(device) for score in self._scores]
        ranks = [len(score) for score in self.scores]
        for score, part in zip(self.scores, state["scores"].to(device).split(ranks), strict=True):
            score.copy_(part)
        if "final" in state:
            self.final = list(state["final"].to(device).split(ranks))
