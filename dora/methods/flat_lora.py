"""Flat-LoRA (Li et al., ICML 2025, arXiv 2409.14396): LoRA in flat regions of the full weights.

Every training step computes with W0 + s B A + ε. The random ε is drawn once a step, and gone when
the step is over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dora.adapters.plan import Plan
from dora.methods.base import RunInfo
from dora.methods.lora import PlainLoRA, PlainSettings
from dora.methods.rules import in_range


@dataclass
class Settings(PlainSettings):
    """The settings in conf/method/flat_lora.yaml."""

    rho: float

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range."""
        found = super().problems(total_steps)
        return found + in_range("method.rho", self.rho, 0, math.inf, "the paper uses 0.05")


def row_norms(W: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
    """Returns ‖W_i + s B_i A‖, the norm of each row of the merged weight, (d_out,), ≥ 0.

    W: (d_out, d_in), A: (r, d_in), B: (d_out, r).
    """
    # ‖W_i‖² + 2 s (W Aᵀ)_i · B_i + s² B_i (A Aᵀ) B_iᵀ: the merged weight is not formed.
    sB = s * B
    added = ((2 * (W @ A.mT) + sB @ (A @ A.mT)) * sB).sum(1)
    squared = torch.linalg.vector_norm(W, dim=1).square() + added
    return squared.clamp_min(0).sqrt()  # rounding can leave −1e-12 where B A cancels W


class FlatLoRA(PlainLoRA):
    """Adds noise to the weights that training multiplies with; all else is LoRA.

    ε_ij of a step is normal with mean 0 and standard deviation c ρ ‖W'_i‖ / √d_in, where W'_i is
    row i of the merged weight, and c = ½ (1 − cos(π t / T)) grows from 0 to 1 over the run, t
    counted from 0 (eq. 7). All micro-batches and processes of a step share it. Evaluations are
    without noise, and the base's weight is never written to.

    The noise is a function of (seed, step, matrix), so no state is saved. On a CPU it does not
    depend on the number of threads; a CPU without AVX2 rounds its last digit otherwise. A GPU draws
    other numbers than a CPU, and another GPU model may draw others yet.

    Memory: one copy of the adapted weights in float32, and under precision=bf16 a second one in
    bfloat16.
    """

    title = "Flat-LoRA"
    paper = "Li et al., Flat-LoRA, ICML 2025, arXiv 2409.14396"
    settings_type = Settings

    def __init__(self, settings: Settings, model: nn.Module, plan: Plan, run: RunInfo) -> None:
        super().__init__(settings, model, plan, run)
        for layer in self.layers.values():
            layer.unpacked()  # raises for a packed weight, which takes no noise
        self.run = run
        # One for each adapted matrix, (d_out, d_in), kept from step to step: drawing into new
        # memory takes half as long again.
        self._drawn: dict[str, Tensor] = {}

    @torch.no_grad()
    def noise(self, step: int) -> None:
        """Draws ε of this step, and puts W0 + ε in place of the weight of each adapted matrix."""
        t = min(step - 1, self.run.total_steps)  # a loop of somebody else's may go on
        c = (1 - math.cos(math.pi * t / self.run.total_steps)) / 2
        size = c * self.settings.rho
        if size == 0:  # in the first step
            return
        for name, layer in self.layers.items():
            if layer.rank == 0:  # a small budget leaves some matrices as they are
                continue
            held, A, B = layer.unpacked(), layer.A, layer.B
            if name not in self._drawn:
                self._drawn[name] = torch.empty_like(held, dtype=A.dtype)
            W = held.to(A.dtype)
            std = size / math.sqrt(layer.base.in_features) * row_norms(W, A, B, layer.scale)
            # On the layer's device: drawn on the CPU, all weights would be copied in every step.
            generator = self.run.generator(f"noise {name}", step, held.device)
            drawn = self._drawn[name].normal_(generator=generator)
            # The sum is rounded once, to the type that the base holds (bfloat16 under
            # precision=bf16).
            layer.perturbed = drawn.mul_(std.unsqueeze(1)).add_(W).to(held.dtype)
