"""DoRA, dynamic rank distribution (Mao et al., ACL 2024, arXiv 2405.17357).

This is not PEFT's `use_dora`, another paper's weight-decomposed DoRA (arXiv 2402.09353).

Training starts with ceil(1.5 r) components a matrix. A component's importance is its share of its
matrix's update, smoothed over steps. Inside a window the least important components are masked,
more and more of them; at its end the set is final. The share compares components within a matrix,
not across matrices: the largest of r components has a share of at least 1/r however small its
matrix's update is, so the method favours keeping one in each matrix. The paper defines it so; it is
no accident of this code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dora.adapters import lowrank
from dora.adapters.allocation import allocate
from dora.adapters.budget import Budget, Matrix
from dora.adapters.changes import Mask, Remove
from dora.adapters.norms import component_norms, update_norm
from dora.adapters.plan import Plan, pruning_plan
from dora.adapters.pruning import SHAPES, pruned, steps_of
from dora.adapters.stack import Stack, in_order, stacks
from dora.methods import base
from dora.methods.base import RunInfo
from dora.methods.rules import fraction_or_steps, in_range, interval, one_of

IMPORTANCE = ("share", "random")
# The settings of pruning, and of the penalty that ends with it.
_PRUNING = (
    "dem",
    "importance",
    "beta",
    "shape",
    "remove",
    "prune_start",
    "prune_end",
    "prune_interval",
)


@dataclass
class Settings(base.Settings):
    """The settings in conf/method/dora.yaml."""

    alpha: float
    dropout: float
    dem: float
    importance: str
    beta: float
    start_factor: float
    prune_start: float
    prune_end: float
    prune_interval: float
    shape: str
    remove: bool

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range.

        With `total_steps`, also for a window without steps or beyond a run of this length.
        """
        found = [
            *in_range("method.alpha", self.alpha, 1e-6, math.inf, "the released code uses 8"),
            *in_range("method.dropout", self.dropout, 0, 1, "the released code uses 0.1"),
            *in_range("method.dem", self.dem, 0, math.inf, "the paper uses 0.1 to 0.5"),
            *one_of("method.importance", self.importance, IMPORTANCE, "the paper's is share"),
            *in_range("method.beta", self.beta, 0, 1, "the paper uses 0.9"),
            *in_range("method.start_factor", self.start_factor, 1, math.inf, "the paper uses 1.5"),
            *fraction_or_steps("method.prune_start", self.prune_start),
            *fraction_or_steps("method.prune_end", self.prune_end, zero=False),
            *interval("method.prune_interval", self.prune_interval),
            *one_of("method.shape", self.shape, SHAPES, "the released code's is cubic_late"),
        ]
        if total_steps is not None and not found:
            start, length = self.window(total_steps)
            if length < 1 or start + length > total_steps:
                found.append(
                    f"method.prune_start={self.prune_start} and method.prune_end={self.prune_end} "
                    f"leave no pruning window in a run of {total_steps} steps (it would span "
                    f"{start} to {start + length}); train longer or move the window"
                )
        return found

    def unused(self, plan: Plan | None) -> dict[str, str]:
        """Returns each setting that has no effect in a run with this plan, with the reason."""
        if plan is None or plan.prunes:
            return {}
        return dict.fromkeys(_PRUNING, "the run starts within its budget, and prunes nothing")

    def window(self, total_steps: int) -> tuple[int, int]:
        """Returns (step at which t' = 0, length T' in steps) of the pruning window.

        With the paper's settings these are 0.15 T rounded up and 0.35 T rounded down.
        """
        # The released code has t' = int(step - 0.15 T), which is first 0 at ceil(0.15 T).
        if self.prune_start >= 1:
            start = int(self.prune_start)
        else:
            start = math.ceil(Fraction(str(self.prune_start)) * total_steps)
        # The difference is rounded once, as a fraction: two roundings could lose a step.
        if self.prune_start < 1 and self.prune_end < 1:
            width = Fraction(str(self.prune_end)) - Fraction(str(self.prune_start))
            return start, int(width * total_steps)
        return start, steps_of(self.prune_end, total_steps) - start


def shares(stack: Stack) -> Tensor:
    """Returns each component's share of its matrix's update, (m, R), ≥ 0 (eq. 5)."""
    # The released code adds 1e-8 to the norm of the update, and so do we: g starts at 0.
    A, g, B = stack.of("A"), stack.of("g"), stack.of("B").mT
    return component_norms(A, g, B) / (update_norm(A, g, B) + 1e-8).unsqueeze(-1)


def equilibrium(stack: Stack) -> Tensor:
    """Returns the mean unbiased variance of each matrix's 2r vectors A[i, :] and B[:, i], (m,).

    The dimensional equilibrium modulator (DEM), a penalty, is its mean over matrices.
    """
    # The mean over a matrix's own components: padding has variance 0, but must not count.
    variances = variance(stack.of("A")) + variance(stack.of("B"))
    return variances.sum(-1) / (2 * stack.real.sum(-1))


def variance(x: Tensor) -> Tensor:
    """Returns the unbiased variance over the last axis, (...,) from (..., d)."""
    return _Variance.apply(x)


class _Variance(torch.autograd.Function):
    """Computes `variance`. On a CPU Tensor.var and its gradient take 3 to 5 times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Returns (...,) for x of shape (..., d)."""
        centred = x - x.mean(-1, keepdim=True)
        ctx.save_for_backward(centred)
        return centred.square().sum(-1) / (x.shape[-1] - 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dv: Tensor) -> Tensor:
        """Returns 2 (x − mean) dv / (d − 1); the mean's own gradient cancels."""
        (centred,) = ctx.saved_tensors
        return centred * (dv * (2 / (centred.shape[-1] - 1))).unsqueeze(-1)


class DoRA(base.Method):
    """Smooths every component's share, prunes inside a window, and penalises unequal dimensions.

    Steps are counted from 1, as in the released code.
    """

    title = "DoRA (dynamic rank)"
    recordable = True
    paper = "Mao et al., DoRA, ACL 2024, arXiv 2405.17357"
    note = (
        "DoRA here is dynamic rank distribution (arXiv 2405.17357), "
        "not the weight-decomposed DoRA of PEFT's use_dora (arXiv 2402.09353)."
    )
    settings_type = Settings

    def __init__(self, settings: Settings, model: nn.Module, plan: Plan, run: RunInfo) -> None:
        self.settings, self.budget_plan = settings, plan
        # Divided by the rank at the start, to the end of training.
        r0 = max(plan.start)
        self.layers = lowrank.adapt(
            model, plan.matrices, plan.start, settings.alpha / r0, settings.dropout, gated=True
        )
        generator = run.generator("start")
        for layer in self.layers.values():
            # kaiming_uniform_ with its default a = 0, as released. B's fan-in is r0, so B starts
            # larger than A by far; g starts at 0, so the update starts at 0.
            bound_a, bound_b = math.sqrt(6 / layer.A.shape[1]), math.sqrt(6 / r0)
            nn.init.uniform_(layer.A, -bound_a, bound_a, generator=generator)
            nn.init.uniform_(layer.B, -bound_b, bound_b, generator=generator)
        self.start, self.length = settings.window(run.total_steps)
        self.interval = max(1, steps_of(settings.prune_interval, run.total_steps))
        self.ranks_final_at = self.start + self.length if plan.prunes else 0
        self.stacks = stacks(self.layers.values())
        self._smoothed = [torch.zeros_like(stack.of("g")) for stack in self.stacks]
        if settings.importance == "random":
            drawn = run.generator("importance")
            for smoothed in self._smoothed:
                smoothed.uniform_(generator=drawn)
        # The final set, where components stay masked to the end (remove=false).
        self._final: list[Tensor] | None = None

    @classmethod
    def plan(
        cls, settings: Settings, budget: Budget, matrices: tuple[Matrix, ...], run: RunInfo
    ) -> Plan:
        """Starts with ceil(start_factor x r) components a matrix and ends at the budget."""
        return pruning_plan(budget, matrices, settings.start_factor)

    def penalty(self, step: int) -> Tensor | None:
        """Returns dem times the mean of `equilibrium`; None after the pruning window."""
        # Ends with the window, as in the released code. The stacks of the start are valid until
        # then: nothing is removed before the window's end.
        if step > self.ranks_final_at or self.settings.dem == 0:
            return None
        return self.settings.dem * torch.cat([equilibrium(stack) for stack in self.stacks]).mean()

    def after_step(self, step: int) -> Mask | Remove | None:
        """Smooths the shares, and prunes every `interval` steps in the window and at its end."""
        if step > self.ranks_final_at:
            # The optimizer moves masked gates too, so the final mask is applied after every step.
            return None if self._final is None else Mask(self._final, new=False)
        if self.settings.importance == "share":
            self._smooth()
        into = step - self.start
        if into < 0 or (into % self.interval and into != self.length):
            return None
        keep = allocate(self._scores(), self.budget_plan.costs, self._budget_at(step))
        last = into == self.length
        if last and self.settings.remove:
            return Remove(keep)
        if last:
            self._final = keep
        return Mask(keep)

    def state(self) -> dict[str, Tensor]:
        """Returns the smoothed shares, and the final set if components stay masked."""
        state = {"scores": torch.cat(self._scores())}
        return state if self._final is None else {**state, "final": torch.cat(self._final)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restores shares and final set, on the device where the layers are."""
        device = next(iter(self.layers.values())).A.device
        self._smoothed = [smoothed.to(device) for smoothed in self._smoothed]
        mine = self._scores()
        ranks = [len(score) for score in mine]
        for score, part in zip(mine, state["scores"].to(device).split(ranks), strict=True):
            score.copy_(part)  # a view, so this fills the stacked shares
        if "final" in state:
            self._final = list(state["final"].to(device).split(ranks))

    @torch.no_grad()
    def _smooth(self) -> None:
        """Takes this step's shares into the smoothed ones."""
        for smoothed, stack in zip(self._smoothed, self.stacks, strict=True):
            # S ← β S + (1 − β) share, without a correction of the start at 0.
            smoothed.lerp_(shares(stack), 1 - self.settings.beta)

    def _budget_at(self, step: int) -> int:
        """Returns how much may live after a step of the window, in the budget's unit."""
        surplus = self.budget_plan.start_total - self.budget_plan.target
        gone = pruned(self.settings.shape, surplus, step - self.start, self.length)
        # The amount pruned is rounded down in the budget's unit. In parameters, a component of
        # which a part has to go goes whole.
        return self.budget_plan.start_total - math.floor(gone)

    def _scores(self) -> list[Tensor]:
        """Returns the smoothed shares, (r,) for each layer, as views of the stacked ones.

        With importance=random they are draws from [0, 1), which stay as they are.
        """
        stacked = zip(self.stacks, self._smoothed, strict=True)
        return in_order(self.layers.values(), stacked)
