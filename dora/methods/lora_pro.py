"""LoRA-Pro (Wang et al., ICLR 2025, arXiv 2407.18242): gradients of A and B that together come
closest to full fine-tuning's.

A step along (g_A, g_B) changes the merged weight as the *equivalent gradient* s B g_A + s g_B A
would, G being the weight's own, unknown one. LoRA's own gradients G_A = s Bᵀ G and G_B = s G Aᵀ
suffice to make that the projection of G on the tangent space, Π_B G + (I − Π_B) G Π_A, where Π_B
projects on B's columns and Π_A on A's rows. A matrix X is left free; the equivalent gradient does
not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dora.adapters.plan import Plan
from dora.adapters.stack import Stack, stacks
from dora.methods.base import ParameterGroup, RunInfo
from dora.methods.lora import PlainLoRA, PlainSettings
from dora.methods.rules import in_range, one_of

MODES = ("efficient", "full")
CHOICES_OF_X = ("sylvester", "zero", "symmetry")
DELTA = 1e-8  # δ, added to the diagonals of Bᵀ B and A Aᵀ before they are inverted
# Those of the loop's AdamW, which the released full mode uses as well.
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


@dataclass
class Settings(PlainSettings):
    """The settings in conf/method/lora_pro.yaml."""

    mode: str
    x: str
    full_rate: float

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range."""
        return [
            *super().problems(total_steps),
            *one_of("method.mode", self.mode, MODES, "efficient keeps no moments of full size"),
            *one_of("method.x", self.x, CHOICES_OF_X, "the paper's is sylvester"),
            *in_range(
                "method.full_rate",
                self.full_rate,
                1e-6,
                math.inf,
                "0.05 makes 2e-5 of lr=4e-4, a rate of full fine-tuning",
            ),
        ]

    def unused(self, plan: Plan | None) -> dict[str, str]:
        """Returns each setting that has no effect in a run with this plan, with the reason."""
        return {} if self.mode == "full" else {"full_rate": f"method.mode={self.mode}"}


def adjusted(
    A: Tensor, B: Tensor, G_A: Tensor, G_B: Tensor, s: float, x: str
) -> tuple[Tensor, Tensor]:
    """Returns (g_A, g_B) in the shapes of A, (..., r, d_in), and B, (..., d_out, r), in float64.

    G_A and G_B are LoRA's gradients; `x` names the choice of X. The equations are the paper's
    closed form, with P = BᵀB + δI and Q = AAᵀ + δI.
    """
    # In float64: beside entries of BᵀB near 1, δ is less than float32's rounding, and P may then
    # fail to be positive. The factors are small, so this costs little.
    A, B, G_A, G_B = A.double(), B.double(), G_A.double(), G_B.double()
    p, U = torch.linalg.eigh(B.mT @ B)
    q, V = torch.linalg.eigh(A @ A.mT)
    # One decomposition of each serves the inverses and Sylvester's equation.
    P_inverse = (U / (p + DELTA).unsqueeze(-2)) @ U.mT
    Q_inverse = (V / (q + DELTA).unsqueeze(-2)) @ V.mT
    # With X = 0: g_A = s⁻² P⁻¹ G_A and g_B = s⁻² (I − B P⁻¹ Bᵀ) G_B Q⁻¹.
    g_A = P_inverse @ G_A / s**2
    g_B = (G_B - B @ (P_inverse @ (B.mT @ G_B))) @ Q_inverse / s**2
    if x == "zero":
        return g_A, g_B
    C = -g_A @ A.mT
    if x == "sylvester":
        # (BᵀB) X + X (AAᵀ) = C, solved entry by entry in the eigenvectors' bases. The sum of two
        # eigenvalues is 0 for padding, whose C is 0: the bound turns 0 / 0 into 0.
        sums = (p.unsqueeze(-1) + q.unsqueeze(-2)).clamp_min(DELTA)
        X = U @ ((U.mT @ C @ V) / sums) @ V.mT
    else:
        # X = −½ s⁻² P⁻¹ Bᵀ G_B Q⁻¹, where Bᵀ G_B = G_A Aᵀ. The released line multiplies by AAᵀ
        # in place of its inverse, a bug.
        X = C @ Q_inverse / 2
    return g_A + X @ A, g_B - B @ X


def equivalent_gradient(A: Tensor, B: Tensor, g_A: Tensor, g_B: Tensor, s: float) -> Tensor:
    """Returns s B g_A + s g_B A, (..., d_out, d_in), in A's type; shapes as for `adjusted`."""
    return s * (B @ g_A.to(A.dtype) + g_B.to(A.dtype) @ A)


class LoRAPro(PlainLoRA):
    """Trains LoRA's A and B with adjusted gradients; start values and scale are LoRA's.

    mode=efficient puts g_A and g_B in place of the clipped gradients, and the loop's AdamW moves A
    and B, weight decay included.

    mode=full keeps Adam's two moments of the equivalent gradient, (d_out, d_in) each, and projects
    Adam's step U as if it were the gradient: A −= η g_A, B −= η g_B, where η is `full_rate` times
    the run's learning rate, since A and B need a rate of full fine-tuning, and the head does not.
    The moments take twice the memory of the adapted weights, and as much in every checkpoint:
    680 MB for a model of base size (target=all), 113 MB with target=q,v. A and B are not decayed in
    this mode, as in the released code.
    """

    title = "LoRA-Pro"
    recordable = True
    paper = "Wang et al., LoRA-Pro, ICLR 2025, arXiv 2407.18242"
    note = (
        "LoRA-Pro's mode=efficient, an earlier release's default, gives Adam the adjusted gradients. "
        "A's is huge while B is near its start at 0, Adam's mean square remembers it for about a "
        "thousand steps, and in a short run A hardly moves. The present release is mode=full."
    )
    settings_type = Settings

    def __init__(self, settings: Settings, model: nn.Module, plan: Plan, run: RunInfo) -> None:
        super().__init__(settings, model, plan, run)
        self.full = settings.mode == "full"
        self.stacks = stacks(self.layers.values())  # of the layers that have components
        # Each stack of m layers with both moments, (m, 2, d_out, d_in); empty in efficient mode.
        self._moments = [(stack, _zeros(stack)) for stack in self.stacks] if self.full else []

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Keeps A and B from the loop's optimizer in mode=full."""
        factors = [p for layer in self.layers.values() for p in layer.factors().values()]
        return [ParameterGroup(factors, by_method=True)] if self.full else []

    @torch.no_grad()
    def adjust_clipped_gradients(self, step: int) -> None:
        """Replaces the gradients of A and B by g_A and g_B in mode=efficient."""
        # After the clip: in the first steps from B = 0, g_A is 2,000 times G_A (r 8, d 768), and a
        # clip of adjusted gradients would scale all the others down with it.
        if self.full:
            return
        for stack in self.stacks:
            G_A, G_B = stack.gradient_of("A"), stack.gradient_of("B").mT
            for p, g in self._adjusted(stack, G_A, G_B):
                if p.grad is not None:
                    p.grad.copy_(g)

    @torch.no_grad()
    def update(self, step: int, rate: float) -> None:
        """Moves A and B in mode=full: Adam on the equivalent gradient, its step projected again."""
        for stack, moments in self._moments:
            mean, square = moments.unbind(1)
            A, B, s = stack.of("A"), stack.of("B").mT, stack.layers[0].scale
            G_A, G_B = stack.gradient_of("A"), stack.gradient_of("B").mT
            equivalent = equivalent_gradient(A, B, *adjusted(A, B, G_A, G_B, s, "zero"), s)
            mean.lerp_(equivalent, 1 - BETA1)
            square.mul_(BETA2).addcmul_(equivalent, equivalent, value=1 - BETA2)
            # Corrected for `step`. The last released code corrects for step + 1, a bug that makes
            # the first step 0.744 times Adam's.
            spread = (square / (1 - BETA2**step)).sqrt_().add_(EPS)
            U = torch.div(mean, spread, out=equivalent).div_(1 - BETA1**step)
            far = rate * self.settings.full_rate
            for p, g in self._adjusted(stack, s * (B.mT @ U), s * (U @ A.mT)):
                p.sub_(far * g)

    def state(self) -> dict[str, Tensor]:
        """Returns both moments of each matrix, (2, d_out, d_in), by matrix name."""
        # By matrix, not by stack: how layers are stacked is no part of a checkpoint's format. The
        # number of steps is not saved, since `update` is told it.
        names = {layer: name for name, layer in self.layers.items()}
        return {
            names[layer]: of_layer
            for stack, moments in self._moments
            for layer, of_layer in zip(stack.layers, moments, strict=True)
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Restores the moments, on the device where the layers are."""
        device = next(iter(self.layers.values())).A.device
        self._moments = [(stack, moments.to(device)) for stack, moments in self._moments]
        for name, of_layer in self.state().items():
            of_layer.copy_(state[name])  # a view, so this fills the stacked moments

    def _adjusted(
        self, stack: Stack, G_A: Tensor, G_B: Tensor
    ) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yields each layer's A with its g_A, and its B with its g_B, in float64.

        G_A: (m, R, d_in), G_B: (m, d_out, R).
        """
        A, B, s = stack.of("A"), stack.of("B").mT, stack.layers[0].scale
        g_A, g_B = adjusted(A, B, G_A, G_B, s, self.settings.x)
        parts = zip(stack.layers, stack.split(g_A), stack.split(g_B.mT), strict=True)
        for layer, of_A, of_B in parts:
            yield layer.A, of_A
            yield layer.B, of_B.mT


def _zeros(stack: Stack) -> Tensor:
    """Returns two moments of the start for each of the m layers, (m, 2, d_out, d_in)."""
    A, B = stack.layers[0].A, stack.layers[0].B
    return torch.zeros(len(stack.layers), 2, B.shape[0], A.shape[1], dtype=A.dtype, device=A.device)
