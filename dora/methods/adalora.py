"""AdaLoRA (Zhang et al., ICLR 2023, arXiv 2303.10512): an SVD-like update B diag(g) A with A and B kept near
orthogonal, whose components are masked by smoothed sensitivity times its uncertainty.

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
from dora.methods.protocol import Allocation, fraction_or_steps, in_range

FACTORS = ("A", "B", "g")


@dataclass
class Settings:
    """`orthogonality`: weight of the penalty. `init_warmup` (t_i), `final_warmup` (t_f), `mask_interval` (Δ):
    fractions of the run below 1, steps from 1. `start_factor`: start rank over average end rank (the
    paper's Table 1 uses 1.5, and 2 at r2). `remove`: whether components leave for good when the final
    phase begins, or stay masked as in the released code."""

    base_lr: float = 8e-4
    alpha: float = 32.0
    dropout: float = 0.0
    orthogonality: float = 0.1
    beta1: float = 0.85
    beta2: float = 0.85
    start_factor: float = 1.5
    init_warmup: float = 0.15
    final_warmup: float = 0.5
    mask_interval: float = 0.0125
    remove: bool = True

    def problems(self, total_steps: int | None) -> list[str]:
        """Every value out of range; with `total_steps`, phases that do not fit."""
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
                    f"{self.final_warmup} ({t_f} steps) do not fit a run of {total_steps} steps: together they must "
                    f"be shorter than the run, the final phase at least 2 steps"
                )
        return found


def orthogonality(stack: lowrank.Stack) -> torch.Tensor:
    """‖A Aᵀ − I‖_F and ‖Bᵀ B − I‖_F of each matrix, (2m,) (eq. 4 has them squared; the released code, and we, do not)."""
    factors = torch.cat([f @ f.mT for f in (stack.of("A"), stack.of("B"))])
    eye = torch.diag_embed(stack.real).repeat(2, 1, 1)
    return torch.linalg.matrix_norm(factors - eye)


class AdaLoRA:
    """Keeps two running averages of every entry of A, B and g while the components are still in question."""

    def __init__(
        self,
        settings: Settings,
        model: nn.Module,
        plan: Plan,
        total_steps: int,
        generator: torch.Generator,
    ) -> None:
        self.settings, self.plan_ = settings, plan
        scale = settings.alpha / (
            max(plan.start) + 1e-5
        )  # the initial rank, to the end: adjusting it hurt
        self.layers = lowrank.adapt(
            model, plan.matrices, plan.start, scale, settings.dropout, gated=True
        )
        for layer in self.layers.values():
            nn.init.normal_(layer.A, std=0.02, generator=generator)
            nn.init.normal_(layer.B, std=0.02, generator=generator)
        self.t_i = steps_of(settings.init_warmup, total_steps)
        self.t_end = total_steps - steps_of(settings.final_warmup, total_steps)  # T − t_f
        self.interval = max(1, steps_of(settings.mask_interval, total_steps))
        # The final phase begins at t = t_end + 1, which is step t_end + 2 counted from 1.
        self.settled = self.t_end + 2 if plan.start_total > plan.target else 0
        self.stacks = lowrank.stacks(self.layers.values())
        self._penalised = self.stacks  # those of the ranks that there are now
        # Ī and Ū of each stack's A, Bᵀ and g.
        self._sensitivity = [
            [torch.zeros_like(stack.of(f)) for f in FACTORS] for stack in self.stacks
        ]
        self._uncertainty = [
            [torch.zeros_like(stack.of(f)) for f in FACTORS] for stack in self.stacks
        ]
        self.final: list[torch.Tensor] | None = None

    @staticmethod
    def plan(settings: Settings, budget: Budget, matrices: tuple[Matrix, ...]) -> Plan:
        """ceil(1.5 r) components a matrix at the start, the budget at the end."""
        return pruning_plan(budget, matrices, settings.start_factor)

    def penalty(self, step: int) -> torch.Tensor | None:
        """The mean over all A and B that still hold components, to the end of training."""
        if any(
            layer.rank != rank
            for s in self._penalised
            for layer, rank in zip(s.layers, s.ranks, strict=True)
        ):
            self._penalised = lowrank.stacks(self.layers.values())  # after a removal
        if self.settings.orthogonality == 0 or not self._penalised:
            return None
        return (
            self.settings.orthogonality
            * torch.cat([orthogonality(s) for s in self._penalised]).mean()
        )

    def budget_at(self, t: int) -> int:
        """b(t) in the budget's unit, rounded down (eq. 14 as the code has it; as printed it is a misprint)."""
        b0, b_end = self.plan_.start_total, self.plan_.target
        if t <= self.t_i:
            return b0
        if t > self.t_end:
            return b_end
        gone, whole = pruned("cubic_early", b0 - b_end, t - self.t_i, self.t_end - self.t_i)
        return b0 - -(-gone // whole)

    def after_step(self, step: int) -> Allocation | None:
        """Averages until the final phase; masks every Δ-th t inside the window; then the set is final."""
        t = step - 1
        if step > self.settled:
            return Allocation(self.final, new=False) if self.final is not None else None
        if t < self.t_end:
            with torch.no_grad():
                self._average()
        if step == self.settled:
            keep = allocate(self.scores(), self.plan_.costs, self.budget_at(t))
            self.final = None if self.settings.remove else keep
            return Allocation(keep, remove=self.settings.remove)
        if t > self.t_i and t % self.interval == 0:
            return Allocation(allocate(self.scores(), self.plan_.costs, self.budget_at(t)))
        return None

    def _average(self) -> None:
        """Eqs. 9 to 11: Ī and Ū of I = |w ∂L/∂w|, this step's gradient and the weight after the step."""
        beta1, beta2 = self.settings.beta1, self.settings.beta2
        for stack, means, spreads in zip(
            self.stacks, self._sensitivity, self._uncertainty, strict=True
        ):
            for factor, mean, spread in zip(FACTORS, means, spreads, strict=True):
                now = stack.of(factor).mul_(stack.gradient_of(factor)).abs_()
                mean.lerp_(now, 1 - beta1)
                spread.lerp_(now.sub_(mean).abs_(), 1 - beta2)  # with the new mean

    def scores(self) -> list[torch.Tensor]:
        """S_i = s(g_i) + mean_j s(A_ij) + mean_j s(B_ji), s = Ī Ū (eqs. 12, 13): (r,) per layer."""
        found = []
        for means, spreads in zip(self._sensitivity, self._uncertainty, strict=True):
            A, B, g = (mean * spread for mean, spread in zip(means, spreads, strict=True))
            found.append(g + A.mean(-1) + B.mean(-1))
        return lowrank.in_order(self.layers.values(), zip(self.stacks, found, strict=True))

    def averages(self, which: str) -> list[dict[str, torch.Tensor]]:
        """ "sensitivity" Ī or "uncertainty" Ū of every entry of A, B and g: a dictionary per layer, of views."""
        stored = getattr(self, f"_{which}")
        columns = [
            lowrank.in_order(
                self.layers.values(), zip(self.stacks, (of[i] for of in stored), strict=True)
            )
            for i in range(len(FACTORS))
        ]
        return [
            {"A": A, "B": B.mT if B.dim() > 1 else B, "g": g}
            for A, B, g in zip(*columns, strict=True)
        ]

    def state(self) -> dict[str, torch.Tensor]:
        """Both averages of every entry, flat, and the final set where components stay masked to the end."""
        state = {
            name: torch.cat([t.flatten() for of in self.averages(name) for t in of.values()])
            for name in ("sensitivity", "uncertainty")
        }
        return state if self.final is None else {**state, "final": torch.cat(self.final)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Takes up averages and final set, on the device where the layers are."""
        device = next(iter(self.layers.values())).A.device
        self._sensitivity = [[t.to(device) for t in of] for of in self._sensitivity]
        self._uncertainty = [[t.to(device) for t in of] for of in self._uncertainty]
        for name in ("sensitivity", "uncertainty"):
            mine = [t for of in self.averages(name) for t in of.values()]
            parts = state[name].to(device).split([t.numel() for t in mine])
            for t, part in zip(mine, parts, strict=True):
                t.copy_(part.view(t.shape))
        if "final" in state:
            ranks = [len(score) for score in self.scores()]
            self.final = list(state["final"].to(device).split(ranks))
