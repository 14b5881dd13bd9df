"""AdaLoRA (Zhang et al., ICLR 2023, arXiv 2303.10512): adaptive ranks by importance scores.

The update is B diag(g) A with A and B kept near orthogonal, as in an SVD. A component is masked by
the smoothed sensitivity of its entries times the uncertainty of that sensitivity.

Steps t are counted from 0, as in the paper and its code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from dora.adapters import lowrank
from dora.adapters.allocation import allocate
from dora.adapters.budget import Budget, Matrix, Plan, pruned, pruning_plan, steps_of
from dora.adapters.changes import Mask, Remove
from dora.methods import base
from dora.methods.base import RunInfo
from dora.methods.rules import fraction_or_steps, in_range

FACTORS = ("A", "B", "g")


@dataclass
class Settings(base.Settings):
    """The settings in conf/method/adalora.yaml."""

    alpha: float
    dropout: float
    orthogonality: float
    beta1: float
    beta2: float
    start_factor: float
    init_warmup: float
    final_warmup: float
    mask_interval: float
    remove: bool

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range; with `total_steps`, for phases that do not
        fit.
        """
        found = [
            *in_range(
                "method.alpha", self.alpha, 1e-6, math.inf, "the paper's scripts use 16 or 32"
            ),
            *in_range("method.dropout", self.dropout, 0, 1, "the paper's scripts use 0"),
            *in_range(
                "method.orthogonality", self.orthogonality, 0, math.inf, "the paper uses 0.1 to 0.5"
            ),
            *in_range("method.beta1", self.beta1, 0, 1, "the paper uses 0.85"),
            *in_range("method.beta2", self.beta2, 0, 1, "the paper uses 0.85"),
            *in_range("method.start_factor", self.start_factor, 1, math.inf, "the paper uses 1.5"),
            *fraction_or_steps("method.init_warmup", self.init_warmup),
            *fraction_or_steps("method.final_warmup", self.final_warmup, zero=False),
            *fraction_or_steps("method.mask_interval", self.mask_interval, zero=False),
        ]
        if total_steps is not None and not found:
            t_i, t_f = (
                steps_of(self.init_warmup, total_steps),
                steps_of(self.final_warmup, total_steps),
            )
            if t_i + t_f >= total_steps or t_f < 2:
                found.append(
                    f"method.init_warmup={self.init_warmup} ({t_i} steps) and method.final_warmup="
                    f"{self.final_warmup} ({t_f} steps) do not fit a run of {total_steps} steps: together "
                    "they must be shorter than the run, the final phase at least 2 steps"
                )
        return found


def orthogonality(stack: lowrank.Stack) -> torch.Tensor:
    """Returns ‖A Aᵀ − I‖_F and ‖Bᵀ B − I‖_F of each of the m matrices, (2m,).

    Eq. 4 squares the norms; the released code does not, and neither do we.
    """
    factors = torch.cat([f @ f.mT for f in (stack.of("A"), stack.of("B"))])
    eye = torch.diag_embed(stack.real).repeat(2, 1, 1)
    return torch.linalg.matrix_norm(factors - eye)


class AdaLoRA(base.Method):
    """Keeps two running averages of every entry of A, B and g until the set of components is final."""

    title = "AdaLoRA"
    paper = "Zhang et al., AdaLoRA, ICLR 2023, arXiv 2303.10512"
    settings_type = Settings

    def __init__(self, settings: Settings, model: nn.Module, plan: Plan, run: RunInfo) -> None:
        self.settings, self.budget_plan = settings, plan
        # By the initial rank, to the end of training: adjusting it hurt (AdaLoRA's issue 12).
        scale = settings.alpha / (max(plan.start) + 1e-5)
        self.layers = lowrank.adapt(
            model, plan.matrices, plan.start, scale, settings.dropout, gated=True
        )
        generator = run.generator("start")
        for layer in self.layers.values():
            nn.init.normal_(layer.A, std=0.02, generator=generator)
            nn.init.normal_(layer.B, std=0.02, generator=generator)
        total_steps = run.total_steps
        self.t_i = steps_of(settings.init_warmup, total_steps)
        self.t_end = total_steps - steps_of(settings.final_warmup, total_steps)  # T − t_f
        self.interval = max(1, steps_of(settings.mask_interval, total_steps))
        # The final phase begins at t = t_end + 1, which is step t_end + 2 counted from 1. Ranks
        # that are within the budget from the start are final from the start.
        self.ranks_final_at = self.t_end + 2 if plan.start_total > plan.target else 0
        self.stacks = lowrank.stacks(self.layers.values())
        self._penalised = self.stacks  # those of the present ranks
        # Ī and Ū of each stack's A, Bᵀ and g.
        self._sensitivity = [[torch.zeros_like(s.of(f)) for f in FACTORS] for s in self.stacks]
        self._uncertainty = [[torch.zeros_like(s.of(f)) for f in FACTORS] for s in self.stacks]
        # The final set, where components stay masked to the end (remove=false).
        self._final: list[torch.Tensor] | None = None

    @classmethod
    def plan(cls, settings: Settings, budget: Budget, matrices: tuple[Matrix, ...]) -> Plan:
        """Starts with ceil(start_factor x r) components a matrix and ends at the budget."""
        return pruning_plan(budget, matrices, settings.start_factor)

    def penalty(self, step: int) -> torch.Tensor | None:
        """Returns the mean of `orthogonality` over all A and B that hold components, to the end of
        training.
        """
        if self.settings.orthogonality == 0:
            return None
        if _outdated(self._penalised):  # after a removal
            self._penalised = lowrank.stacks(self.layers.values())
        if not self._penalised:
            return None
        norms = torch.cat([orthogonality(stack) for stack in self._penalised])
        return self.settings.orthogonality * norms.mean()

    def after_step(self, step: int) -> Mask | Remove | None:
        """Averages until the final phase, masks every Δ-th t inside the window, then fixes the set."""
        t = step - 1
        if step > self.ranks_final_at:
            return None if self._final is None else Mask(self._final, new=False)
        if t < self.t_end:
            with torch.no_grad():
                self._average()
        if step == self.ranks_final_at:
            keep = allocate(self._scores(), self.budget_plan.costs, self._budget_at(t))
            if self.settings.remove:
                return Remove(keep)
            self._final = keep
            return Mask(keep)
        if t > self.t_i and t % self.interval == 0:
            return Mask(allocate(self._scores(), self.budget_plan.costs, self._budget_at(t)))
        return None

    def state(self) -> dict[str, torch.Tensor]:
        """Returns both averages of every entry, flat, and the final set where components stay
        masked.
        """
        state = {
            name: torch.cat([t.flatten() for of in self._averages(name) for t in of.values()])
            for name in ("sensitivity", "uncertainty")
        }
        return state if self._final is None else {**state, "final": torch.cat(self._final)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Takes up averages and final set, on the device where the layers are."""
        device = next(iter(self.layers.values())).A.device
        self._sensitivity = [[t.to(device) for t in of] for of in self._sensitivity]
        self._uncertainty = [[t.to(device) for t in of] for of in self._uncertainty]
        for name in ("sensitivity", "uncertainty"):
            mine = [t for of in self._averages(name) for t in of.values()]
            parts = state[name].to(device).split([t.numel() for t in mine])
            for t, part in zip(mine, parts, strict=True):
                t.copy_(part.view(t.shape))
        if "final" in state:
            ranks = [len(score) for score in self._scores()]
            self._final = list(state["final"].to(device).split(ranks))

    def _budget_at(self, t: int) -> int:
        """Returns b(t) in the budget's unit, rounded down: eq. 14 as the code has it (misprinted)."""
        b0, b_end = self.budget_plan.start_total, self.budget_plan.target
        if t <= self.t_i:
            return b0
        if t > self.t_end:
            return b_end
        gone, whole = pruned("cubic_early", b0 - b_end, t - self.t_i, self.t_end - self.t_i)
        return b0 - -(-gone // whole)

    def _average(self) -> None:
        """Updates Ī and Ū of I = |w ∂L/∂w| (eqs. 9 to 11).

        The gradient is this step's as clipped, the weight the one after the step, as in the
        released trainer.
        """
        beta1, beta2 = self.settings.beta1, self.settings.beta2
        for stack, means, spreads in zip(
            self.stacks, self._sensitivity, self._uncertainty, strict=True
        ):
            for factor, mean, spread in zip(FACTORS, means, spreads, strict=True):
                now = stack.of(factor).mul_(stack.gradient_of(factor)).abs_()
                mean.lerp_(now, 1 - beta1)
                # |I − Ī| with the Ī just updated.
                spread.lerp_(now.sub_(mean).abs_(), 1 - beta2)

    def _scores(self) -> list[torch.Tensor]:
        """Returns S_i = s(g_i) + mean_j s(A_ij) + mean_j s(B_ji), s = Ī Ū (eqs. 12, 13): (r,) per
        layer.
        """
        found = []
        for means, spreads in zip(self._sensitivity, self._uncertainty, strict=True):
            A, B, g = (mean * spread for mean, spread in zip(means, spreads, strict=True))
            found.append(g + A.mean(-1) + B.mean(-1))
        return lowrank.in_order(self.layers.values(), zip(self.stacks, found, strict=True))

    def _averages(self, which: str) -> list[dict[str, torch.Tensor]]:
        """Returns views of "sensitivity" Ī or "uncertainty" Ū of A, B and g: one dictionary per
        layer.
        """
        stored = getattr(self, f"_{which}")
        layers = self.layers.values()
        columns = [
            lowrank.in_order(layers, zip(self.stacks, (of[i] for of in stored), strict=True))
            for i in range(len(FACTORS))
        ]
        return [
            {"A": A, "B": B.mT if B.dim() > 1 else B, "g": g}
            for A, B, g in zip(*columns, strict=True)
        ]


def _outdated(stacks: list[lowrank.Stack]) -> bool:
    """Says whether layers have lost components since the stacks were made."""
    return any(
        layer.rank != rank
        for stack in stacks
        for layer, rank in zip(stack.layers, stack.ranks, strict=True)
    )
