"""AdaLoRA (Zhang et al., ICLR 2023, arXiv 2303.10512): adaptive ranks by importance scores.

The update is B diag(g) A with A and B kept near orthogonal, as in an SVD. Components with the
lowest scores are masked; a score is the smoothed sensitivity of a component's entries times the
uncertainty of that sensitivity.

Steps t are counted from 0, as in the paper and its code; the training loop's `step` from 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dora.adapters import lowrank
from dora.adapters.allocation import allocate
from dora.adapters.budget import Budget, Matrix
from dora.adapters.changes import Mask, Remove
from dora.adapters.plan import Plan, pruning_plan
from dora.adapters.pruning import pruned, steps_of
from dora.adapters.stack import Stack, gram, in_order, stacks
from dora.methods import base
from dora.methods.base import RunInfo
from dora.methods.rules import fraction_or_steps, in_range, interval

FACTORS = ("A", "B", "g")  # in the order of the averages below
_MASKING = ("beta1", "beta2", "init_warmup", "final_warmup", "mask_interval", "remove")


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
        """Returns a message for each value out of range.

        With `total_steps`, also for phases that do not fit a run of this length.
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
            *interval("method.mask_interval", self.mask_interval),
        ]
        if total_steps is not None and not found:
            t_i, t_f = (
                steps_of(self.init_warmup, total_steps),
                steps_of(self.final_warmup, total_steps),
            )
            # The final phase begins at t = T − t_f + 1, so with 1 step it would never begin.
            if t_i + t_f >= total_steps or t_f < 2:
                found.append(
                    f"method.init_warmup={self.init_warmup} ({t_i} steps) and method.final_warmup="
                    f"{self.final_warmup} ({t_f} steps) do not fit a run of {total_steps} steps: "
                    "together they must be shorter than the run, the final phase at least 2 steps"
                )
        return found

    def unused(self, plan: Plan | None) -> dict[str, str]:
        """Returns each setting that has no effect in a run with this plan, with the reason."""
        if plan is None or plan.prunes:
            return {}
        return dict.fromkeys(_MASKING, "the run starts within its budget, and prunes nothing")


def orthogonality(stack: Stack) -> Tensor:
    """Returns ‖A Aᵀ − I‖_F and ‖Bᵀ B − I‖_F of each of the m matrices, (2m,), ≥ 0."""
    # Eq. 4 squares the norms; the released code does not, and neither do we. `of("B")` is Bᵀ.
    factors = torch.cat([gram(f) for f in (stack.of("A"), stack.of("B"))])
    # 1 on the diagonal for components only: padding adds nothing to the norm.
    eye = torch.diag_embed(stack.real).repeat(2, 1, 1)
    return torch.linalg.matrix_norm(factors - eye)


class AdaLoRA(base.Method):
    """Scores components by two running averages of every entry of A, B and g, and masks the lowest.

    The averages are updated in every step until the set of components is final.
    """

    title = "AdaLoRA"
    recordable = True
    reads_gradients = True
    paper = "Zhang et al., AdaLoRA, ICLR 2023, arXiv 2303.10512"
    settings_type = Settings

    def __init__(self, settings: Settings, model: nn.Module, plan: Plan, run: RunInfo) -> None:
        self.settings, self.budget_plan = settings, plan
        # Divided by the initial rank to the end of training: adjusting it to the present rank hurt
        # (AdaLoRA's issue 12). 1e-5 as in the released code.
        scale = settings.alpha / (max(plan.start) + 1e-5)
        self.layers = lowrank.adapt(
            model, plan.matrices, plan.start, scale, settings.dropout, gated=True
        )
        # As released: A and B normal with 0.02, g zero, so that the update starts at 0.
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
        self.ranks_final_at = self.t_end + 2 if plan.prunes else 0
        self.stacks = stacks(self.layers.values())
        # A removal changes ranks: the penalty then needs new stacks; the averages keep theirs.
        self._penalised = self.stacks
        # Ī and Ū of each stack's A, Bᵀ and g.
        self._sensitivity = [[torch.zeros_like(s.of(f)) for f in FACTORS] for s in self.stacks]
        self._uncertainty = [[torch.zeros_like(s.of(f)) for f in FACTORS] for s in self.stacks]
        # The final set, where components stay masked to the end (remove=false).
        self._final: list[Tensor] | None = None

    @classmethod
    def plan(
        cls, settings: Settings, budget: Budget, matrices: tuple[Matrix, ...], run: RunInfo
    ) -> Plan:
        """Starts with ceil(start_factor x r) components a matrix and ends at the budget."""
        return pruning_plan(budget, matrices, settings.start_factor)

    def penalty(self, step: int) -> Tensor | None:
        """Returns the weighted mean of `orthogonality` over all A and B that hold components."""
        # To the end of training, unlike DoRA's penalty.
        if self.settings.orthogonality == 0:
            return None
        if _outdated(self._penalised):  # after a removal
            self._penalised = stacks(self.layers.values())
        if not self._penalised:  # torch.cat refuses an empty list
            return None
        norms = torch.cat([orthogonality(stack) for stack in self._penalised])
        return self.settings.orthogonality * norms.mean()

    def after_step(self, step: int) -> Mask | Remove | None:
        """Updates the averages, masks every Δ-th t inside the window, and at last fixes the set."""
        t = step - 1
        if step > self.ranks_final_at:
            # The optimizer moves masked gates too, so the final mask is applied after every step.
            return None if self._final is None else Mask(self._final, new=False)
        if t < self.t_end:
            with torch.no_grad():
                self._average()
        last = step == self.ranks_final_at
        if not last and (t <= self.t_i or t % self.interval):
            return None
        keep = allocate(self._scores(), self.budget_plan.costs, self._budget_at(t))
        if last and self.settings.remove:
            return Remove(keep)
        if last:
            self._final = keep
        return Mask(keep)

    def state(self) -> dict[str, Tensor]:
        """Returns both averages, flat, and the final set if components stay masked."""
        # By layer, not by stack: how layers are stacked is no part of a checkpoint's format.
        both = {"sensitivity": self._sensitivity, "uncertainty": self._uncertainty}
        state = {
            name: torch.cat([t.flatten() for of in self._averages(stored) for t in of.values()])
            for name, stored in both.items()
        }
        return state if self._final is None else {**state, "final": torch.cat(self._final)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restores averages and final set, on the device where the layers are."""
        device = next(iter(self.layers.values())).A.device
        self._sensitivity = [[t.to(device) for t in of] for of in self._sensitivity]
        self._uncertainty = [[t.to(device) for t in of] for of in self._uncertainty]
        both = {"sensitivity": self._sensitivity, "uncertainty": self._uncertainty}
        for name, stored in both.items():
            mine = [t for of in self._averages(stored) for t in of.values()]
            parts = state[name].to(device).split([t.numel() for t in mine])
            for t, part in zip(mine, parts, strict=True):
                # `mine` are views, so this fills the stacked averages.
                t.copy_(part.view(t.shape))
        if "final" in state:
            ranks = [len(score) for score in self._scores()]
            self._final = list(state["final"].to(device).split(ranks))

    def _budget_at(self, t: int) -> int:
        """Returns b(t), how much may live after step t, in the budget's unit."""
        # Eq. 14 is misprinted in the paper; this is the released code's, b(t) rounded down.
        b0, b_end = self.budget_plan.start_total, self.budget_plan.target
        if t <= self.t_i:
            return b0
        if t > self.t_end:
            return b_end
        gone = pruned("cubic_early", b0 - b_end, t - self.t_i, self.t_end - self.t_i)
        return b0 - math.ceil(gone)

    def _average(self) -> None:
        """Updates the averages Ī of I = |w ∂L/∂w|, and Ū of |I − Ī| (eqs. 9 to 11)."""
        # The gradient is this step's after the clip, w the weight after the step: the released
        # trainer scores at this place.
        beta1, beta2 = self.settings.beta1, self.settings.beta2
        for stack, means, spreads in zip(
            self.stacks, self._sensitivity, self._uncertainty, strict=True
        ):
            for factor, mean, spread in zip(FACTORS, means, spreads, strict=True):
                now = stack.of(factor).mul_(stack.gradient_of(factor)).abs_()
                mean.lerp_(now, 1 - beta1)
                # |I − Ī| with the Ī just updated.
                spread.lerp_(now.sub_(mean).abs_(), 1 - beta2)

    def _scores(self) -> list[Tensor]:
        """Returns every component's score, (r,) for each layer, ≥ 0.

        S_i = s(g_i) + mean_j s(A_ij) + mean_j s(B_ji) with s = Ī Ū (eqs. 12, 13).
        """
        found = []
        for means, spreads in zip(self._sensitivity, self._uncertainty, strict=True):
            A, B, g = (mean * spread for mean, spread in zip(means, spreads, strict=True))
            found.append(g + A.mean(-1) + B.mean(-1))
        return in_order(self.layers.values(), zip(self.stacks, found, strict=True))

    def _averages(self, stored: list[list[Tensor]]) -> list[dict[str, Tensor]]:
        """Returns Ī (`_sensitivity`) or Ū (`_uncertainty`) of A, B and g for each layer.

        The tensors are views of the stacked averages, in the shapes of the layer's factors.
        """
        layers = self.layers.values()
        columns = [
            in_order(layers, zip(self.stacks, (of[i] for of in stored), strict=True))
            for i in range(len(FACTORS))
        ]
        return [
            # A layer without components has empty vectors, which cannot be transposed.
            {"A": A, "B": B.mT if B.dim() > 1 else B, "g": g}
            for A, B, g in zip(*columns, strict=True)
        ]


def _outdated(stacks: list[Stack]) -> bool:
    """Says whether layers have lost components since the stacks were made."""
    return any(
        layer.rank != rank
        for stack in stacks
        for layer, rank in zip(stack.layers, stack.ranks, strict=True)
    )
