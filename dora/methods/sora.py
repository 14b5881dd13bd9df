"""SoRA, sparse low-rank adaptation (Ding et al., EMNLP 2023, arXiv 2311.11696): gates that die.

The update is B diag(g) A. Every step moves the gates g by Adam and then shrinks them all by ξ, so
that gates which the task does not pull away from 0 end there. The shrinking ends once the live
components fit the budget: on for the paper's fixed time, it would leave each learning rate another
size. Where a window's end comes first, the largest live gates that the budget holds are kept.

ξ is an amount a step, no multiple of the learning rate, and g starts at N(0, 1). Whether a gate can
outrun the shrinking depends on the sum of the learning rates, 5.75 over the 14,372 steps of the
released STS-B script, against the sum of ξ, 4.3: a run with a smaller sum of rates needs a smaller
`shrink`. The default, 0.43, kills a third of the gates if nothing moves them: the surplus of
`start_factor` 1.5. Mostly the loss and Adam move more of them to 0 than away from it.
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
from dora.adapters.pruning import steps_of
from dora.methods import base
from dora.methods.base import ParameterGroup, RunInfo
from dora.methods.lora import kaiming
from dora.methods.rules import fraction_or_steps, in_range, one_of

BETA1, BETA2 = 0.9, 0.999  # of Adam, in the paper's code and in the loop's optimizer alike


@dataclass
class Settings(base.Settings):
    """The settings in conf/method/sora.yaml."""

    alpha: float
    dropout: float
    l1_weight: float
    shrink: float
    xi: float | None
    prox: str
    gate_lr_ratio: float
    start_factor: float
    prune_end: float
    shrink_until: str
    remove: bool

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range.

        With `total_steps`, also for a cut that does not lie within a run of this length.
        """
        code = "the released code uses"
        found = [
            *in_range("method.alpha", self.alpha, 1e-6, math.inf, f"{code} 16"),
            *in_range("method.dropout", self.dropout, 0, 1, f"{code} 0"),
            *in_range("method.l1_weight", self.l1_weight, 0, math.inf, f"{code} 10 or 0.001"),
            *in_range("method.shrink", self.shrink, 0, math.inf, f"{code} 4.3 on STS-B"),
            *in_range("method.gate_lr_ratio", self.gate_lr_ratio, 0, math.inf, f"{code} 1"),
            *in_range("method.start_factor", self.start_factor, 1, math.inf, f"{code} 1"),
            *fraction_or_steps("method.prune_end", self.prune_end, zero=False),
            *one_of("method.prox", self.prox, THRESHOLDS, "usual is exact"),
            *one_of("method.shrink_until", self.shrink_until, ENDS, f"{code} end"),
        ]
        if self.xi is not None:
            found += in_range("method.xi", self.xi, 0, math.inf, f"{code} 3e-4 on STS-B")
        if total_steps is not None and not found:
            end = steps_of(self.prune_end, total_steps)
            if not 1 <= end <= total_steps:
                found.append(
                    f"method.prune_end={self.prune_end} is step {end} of a run of {total_steps} "
                    "steps, which has no such step; train longer or move it"
                )
        return found

    def unused(self, plan: Plan | None) -> dict[str, str]:
        """Returns each setting that has no effect in a run with this plan, with the reason."""
        return {} if self.xi is None else {"shrink": f"method.xi={self.xi} stands in for it"}

    def threshold(self, total_steps: int) -> float:
        """Returns ξ, which one proximal step takes off each gate, in a run of this length."""
        if self.xi is not None:
            return self.xi
        end = total_steps if self.shrink_until == "end" else steps_of(self.prune_end, total_steps)
        return self.shrink / end


def exact_threshold(g: Tensor, xi: float) -> Tensor:
    """Returns sign(g) max(|g| − ξ, 0), the proximal step of ξ‖g‖₁, in the shape of g."""
    return g - g.clamp(-xi, xi)


def released_threshold(g: Tensor, xi: float) -> Tensor:
    """Returns the released code's step: g shrunk by ξ, and 0 for gates below 2 ξ, shaped as g."""
    # The released code shrinks by ξ first and compares with ξ only then. Neither of its two
    # comparisons includes |g| = ξ, so a gate of just that size stays as it is.
    size = g.abs()
    shrunk = torch.where(size >= 2 * xi, g - xi * g.sign(), torch.zeros_like(g))
    return torch.where(size == xi, g, shrunk)


# By the values of method.prox.
THRESHOLDS = {"exact": exact_threshold, "released": released_threshold}
# Where the shrinking ends: with live components within the budget, at the window's end, or the run's.
ENDS = ("budget", "cut", "end")


def adam_direction(mean: Tensor, square: Tensor, step: int, released: bool) -> Tensor:
    """Returns Adam's step against the gradient at learning rate 1, in the moments' shape.

    `mean`, `square`: the running averages of the gradient and its square after `step` (from 1).
    `released`: by the rule of Transformers 4.14, which SoRA's code takes; else by PyTorch's.
    """
    corrected = mean / (1 - BETA1**step)
    correction = math.sqrt(1 - BETA2**step)
    if released:
        # 1e-6 is added to the root before its correction, so it weighs 32 times as much at step 1.
        return corrected * correction / (square.sqrt() + 1e-6)
    return corrected / (square.sqrt() / correction + 1e-8)


class SoRA(base.Method):
    """Moves and shrinks the gates itself; A and B are left to the loop's optimizer.

    The released scripts freeze the head at its random start and clip at 0.1; here the head is
    trained and the run's `clip` holds, as for every method.
    """

    title = "SoRA"
    recordable = True
    reads_gradients = True
    paper = "Ding et al., Sparse Low-rank Adaptation, EMNLP 2023, arXiv 2311.11696"
    budget = "at_most"
    settings_type = Settings

    def __init__(self, settings: Settings, model: nn.Module, plan: Plan, run: RunInfo) -> None:
        self.settings, self.budget_plan = settings, plan
        scale = settings.alpha / max(1, *plan.start)
        self.layers = lowrank.adapt(
            model, plan.matrices, plan.start, scale, settings.dropout, gated=True
        )
        generator = run.generator("start")
        for layer, g in zip(self.layers.values(), self._gates(), strict=True):
            layer.A.data = kaiming(layer.A, generator)  # as released, with B = 0
            nn.init.normal_(g, generator=generator)
        # Behind this step no component comes to life; with shrink_until=end some may still die.
        self.ranks_final_at = steps_of(settings.prune_end, run.total_steps)
        self.xi = settings.threshold(run.total_steps)
        # Live sets are logged as often as the other methods allocate by default.
        self.interval = max(1, steps_of(0.0125, run.total_steps))
        self.number = sum(plan.start)
        # Adam's moments of all gates in the order of the layers, (number of gates,).
        like = next(iter(self._gates()))  # its type, whatever PyTorch's default is
        self._mean, self._square = like.new_zeros(self.number), like.new_zeros(self.number)
        each = [cost for cost, r in zip(plan.costs, plan.start, strict=True) for _ in range(r)]
        self._costs = like.new_tensor(each, dtype=torch.int64)  # (number,), in the budget's unit

    @classmethod
    def plan(
        cls, settings: Settings, budget: Budget, matrices: tuple[Matrix, ...], run: RunInfo
    ) -> Plan:
        """Starts with ceil(start_factor x r) components a matrix, ends at the budget or below."""
        return pruning_plan(budget, matrices, settings.start_factor)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Keeps the gates from the loop's optimizer."""
        return [ParameterGroup(self._gates(), by_method=True)]

    def penalty(self, step: int) -> Tensor | None:
        """Returns η times the mean |g|, to the end of training; None for η = 0."""
        # L1 twice: the released code both penalises |g| and shrinks it, and so do we.
        if self.settings.l1_weight == 0 or self.number == 0:
            return None
        # Over the gates of the start, dead and removed ones included: the pull on a live gate does
        # not depend on how many have died, nor on `remove`.
        return torch.cat(self._gates()).abs().sum() * (self.settings.l1_weight / self.number)

    @torch.no_grad()
    def update(self, step: int, rate: float) -> None:
        """Moves all gates by Adam, without weight decay, and shrinks them, to the end set for it."""
        gates = self._gates()
        g = torch.cat(gates)
        slope = torch.cat([torch.zeros_like(p) if p.grad is None else p.grad for p in gates])
        # Dead gates keep their moments, and come to life where one step of Adam exceeds ξ.
        self._mean.lerp_(slope, 1 - BETA1)
        self._square.mul_(BETA2).addcmul_(slope, slope, value=1 - BETA2)
        released = self.settings.prox == "released"
        direction = adam_direction(self._mean, self._square, step, released)
        moved = g - rate * self.settings.gate_lr_ratio * direction
        # Dead is dead where nothing shrinks, or the run could end above its budget.
        kept = moved * (g != 0)
        # ξ itself, not times the rate: gates shrink in a step of rate 0, too.
        shrunk = THRESHOLDS[self.settings.prox](moved, self.xi)
        if step > self.ranks_final_at:
            moved = shrunk * (g != 0) if self.settings.shrink_until == "end" else kept
        elif self.settings.shrink_until == "budget":
            # Chosen on the device: the host need not wait for it.
            fits = (self._costs * (g != 0)).sum() <= self.budget_plan.target
            moved = torch.where(fits, kept, shrunk)
        else:
            moved = shrunk
        for p, part in zip(gates, moved.split([len(p) for p in gates]), strict=True):
            p.copy_(part)

    def after_step(self, step: int) -> Mask | Remove | None:
        """Cuts the live components to the budget at the window's end; before, logs them."""
        if step < self.ranks_final_at and step % self.interval == 0:
            return Mask([layer.live() for layer in self.layers.values()])
        return self._cut() if step == self.ranks_final_at else None

    def state(self) -> dict[str, Tensor]:
        """Returns Adam's moments of all gates, flat, in the order of the layers."""
        return {"exp_avg": self._mean, "exp_avg_sq": self._square}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restores the moments, on the device where the layers are."""
        device = self._gates()[0].device
        self._costs = self._costs.to(device)
        # Copies: `update` works in place, and would otherwise write into whoever gave the state.
        self._mean = state["exp_avg"].to(device, copy=True)
        self._square = state["exp_avg_sq"].to(device, copy=True)

    def _gates(self) -> tuple[nn.Parameter, ...]:
        """Returns g of every layer, (r,) each."""
        return tuple(layer.factors()["g"] for layer in self.layers.values())

    def _cut(self) -> Mask | Remove:
        """Returns the change that keeps the largest live gates within the budget.

        Largest by |g|, not by the component's norm: a larger ξ would have kept the same ones.
        """
        sizes = [g.detach().abs() for g in self._gates()]
        best = allocate(sizes, self.budget_plan.costs, self.budget_plan.target)
        # A budget with room to spare would take dead gates, too.
        keep = [chosen & (size > 0) for chosen, size in zip(best, sizes, strict=True)]
        kept, live = torch.cat(keep), torch.cat(sizes) > 0
        before, after = torch.stack([live.sum(), kept.sum()]).tolist()
        few = self.budget_plan.falls_short(torch.stack([k.sum() for k in keep]).tolist())
        warning = self._warning(before) if before == after and few else None
        if not self.settings.remove:
            return Mask(keep, live_before=before, warning=warning)
        self._mean, self._square = self._mean[kept], self._square[kept]
        return Remove(keep, live_before=before, warning=warning)

    def _warning(self, live: int) -> str:
        """Returns why a cut that found `live` components within the budget did nothing."""
        s, end = self.settings, self.ranks_final_at
        setting = f"method.shrink={s.shrink:g}" if s.xi is None else f"method.xi={s.xi:g}"
        taken = f"{setting} takes up to {self.xi * end:g} off each gate in {end} steps"
        if live == 0:
            return (
                f"all {self.number} components died before the cut, so the adapter is empty: "
                f"{taken}; lower it, or train longer"
            )
        return (
            f"the cut after step {end} did nothing: {live} of {self.number} components were live, "
            f"all of them within the budget; {taken}; lower it to use the whole budget"
        )
