"""LoRA-FAIR (Bian et al., ICCV 2025, arXiv 2411.14961): FedIT whose server corrects B.

With ΔW = Σ p_k B_k A_k, the server looks, at each round's end and for each matrix, for a ΔB that
minimises S(ΔW, (B̄ + ΔB) Ā) + λ ‖ΔB‖², and the next round starts at (Ā, B̄ + ΔB):

* `solver=cosine` (the paper's): S is 1 − cos of the two flattened matrices, by gradient descent
  from 0. Its gradient grows as 1 / ‖B̄‖, so that steps of a fixed size, as the released derivatives
  take them, overshoot where ‖B̄‖ is small, in a run's first rounds. `server_step=relative` takes them
  in units of ‖B̄‖², and the penalty's part implicitly [ours];
* `solver=ridge` (ours): S is the squared distance, solved at once.

The paper prints the norm unsquared, which has no gradient at 0, and S as the cosine itself, whose
minimum is the opposite; its released derivatives square the one and turn the other's sign. The
gradient is written out in factors (`dora/adapters/client_factors.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dora.adapters.client_factors import ClientFactors
from dora.adapters.plan import Plan
from dora.methods.base import Tensors
from dora.methods.fedit import FedIT, average
from dora.methods.lora import PlainSettings
from dora.methods.rules import in_range, one_of

STEPS = ("relative", "fixed")


@dataclass
class Settings(PlainSettings):
    """The settings in conf/method/lora_fair.yaml."""

    solver: str
    regularisation: float
    server_step: str
    server_lr: float
    server_steps: int

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range."""
        name, value = "method.regularisation", self.regularisation
        return [
            *super().problems(total_steps),
            *one_of("method.solver", self.solver, ("cosine", "ridge"), "usual is cosine"),
            *in_range(name, value, 0, math.inf, "the paper's is 0.01"),
            *one_of("method.server_step", self.server_step, STEPS, "usual is relative"),
            *in_range("method.server_lr", self.server_lr, 0, math.inf, "usual is 0.01"),
            *in_range("method.server_steps", self.server_steps, 0, 1e7, "usual is 1000"),
        ]

    def unused(self, plan: Plan | None) -> dict[str, str]:
        """Returns each setting that has no effect in a run with this plan, with the reason."""
        descent = ("server_step", "server_lr", "server_steps")
        why = "method.solver=ridge takes no steps"
        return dict.fromkeys(descent, why) if self.solver == "ridge" else {}


class LoRAFAIR(FedIT):
    """Averages as FedIT does, and moves B towards the average of the updates."""

    title = "LoRA-FAIR"
    paper = "Bian et al., LoRA-FAIR, ICCV 2025, arXiv 2411.14961"
    settings_type = Settings

    def aggregate(
        self, uploads: Sequence[Tensors], shares: Sequence[float], before: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Returns the averages with B corrected, and the `bias` before and after it.

        Beside them `unmoved`, the number of matrices whose B stays as averaged.
        """
        new, s = average(uploads, shares), self.settings
        clients = self._client_factors(uploads, shares)
        if s.solver == "ridge":
            found = [
                ridge(B, G, M, s.regularisation)
                for B, G, M in zip(clients.B, clients.G, clients.M, strict=True)
            ]
        else:
            relative = s.server_step == "relative"
            found = cosine(clients, s.regularisation, s.server_lr, s.server_steps, relative)
        corrected = [B + change for B, change in zip(clients.B, found, strict=True)]
        for name, B in zip(clients.names, corrected, strict=True):
            new[f"{name}.B"] = B.to(new[f"{name}.B"])
        averaged, after = clients.bias(), clients.bias(corrected)
        if averaged is None or after is None:
            return new, {}
        unmoved = float(sum(not change.any() for change in found))
        return new, {"bias": after, "bias_of_averages": averaged, "unmoved": unmoved}


def ridge(B: Tensor, G: Tensor, M: Tensor, regularisation: float) -> Tensor:
    """Returns the ΔB that minimises ‖ΔW − (B̄ + ΔB) Ā‖² + λ ‖ΔB‖², (M − B̄ G)(G + λ I)⁻¹."""
    damped = G + regularisation * torch.eye(len(G), dtype=G.dtype)
    # lstsq, not solve: Ā may have rows of zeros, and λ may be 0.
    return torch.linalg.lstsq(damped, (M - B @ G).t(), driver="gelsd").solution.t()


def cosine(
    clients: ClientFactors, regularisation: float, lr: float, steps: int, relative: bool
) -> list[Tensor]:
    """Returns each layer's ΔB after so many steps of gradient descent on 1 − cos + λ ‖ΔB‖².

    `relative` takes the steps in units of ‖B̄‖², and the penalty at the step's end. A layer whose
    average update, or whose B̄ Ā, is zero stays as it is, and so does one whose objective ends no
    lower than it began. [ours]
    """
    able = [
        i
        for i, (B, G, w) in enumerate(zip(clients.B, clients.G, clients.w, strict=True))
        if w > 0 and (B * (B @ G)).sum() > 0
    ]
    found = [torch.zeros_like(B) for B in clients.B]
    # Every iterate lies in the columns of B̄ and M: in an orthonormal basis of these, (d_out, 2r),
    # norms and products stay, and the matrices have 2r rows. All layers of one rank are one stack.
    by_rank: dict[int, list[int]] = {}
    for i in able:
        by_rank.setdefault(clients.B[i].shape[1], []).append(i)
    for places in by_rank.values():
        bases, starts, targets = [], [], []
        for i in places:
            Q, _ = torch.linalg.qr(torch.cat([clients.B[i], clients.M[i]], dim=1))
            Q = torch.nn.functional.pad(Q, (0, 2 * clients.B[i].shape[1] - Q.shape[1]))
            bases.append(Q)
            starts.append(Q.t() @ clients.B[i])
            targets.append(Q.t() @ clients.M[i])
        start, M = torch.stack(starts), torch.stack(targets)
        G = torch.stack([clients.G[i] for i in places])
        w = torch.tensor([clients.w[i] for i in places], dtype=torch.float64).view(-1, 1, 1)
        # The same objective of B̄ / unit, where a step of fixed size is one of unit² for B̄ itself.
        unit = start.norm(dim=(1, 2), keepdim=True) if relative else torch.ones_like(w)
        start, M, w, weight = start / unit, M / unit, w / unit, regularisation * unit**2
        change = torch.zeros_like(start)
        for _ in range(steps):
            slope = gradient(start + change, G, M, w)
            if relative:
                # The penalty implicitly: an explicit step diverges where λ ‖B̄‖² is large.
                change = (change - lr * slope) / (1 + 2 * lr * weight)
            else:
                change -= lr * (slope + 2 * weight * change)
        better = objective(start + change, change, G, M, w, weight) < objective(
            start, torch.zeros_like(start), G, M, w, weight
        )
        for i, Q, moved, lower in zip(places, bases, change * unit, better, strict=True):
            found[i] = Q @ moved if lower else found[i]
    return found


def objective(B: Tensor, change: Tensor, G: Tensor, M: Tensor, w: Tensor, weight: Tensor) -> Tensor:
    """Returns 1 − cos(ΔW, B Ā) + λ ‖ΔB‖² for each layer of a stack, (layers,).

    `w`, `weight`: ‖ΔW‖ and λ of each layer, (layers, 1, 1).
    """
    n = (B * (B @ G)).sum((-2, -1)).sqrt()
    cos = (B * M).sum((-2, -1)) / (n * w.view(-1))
    return 1 - cos + weight.view(-1) * change.pow(2).sum((-2, -1))


def gradient(B: Tensor, G: Tensor, M: Tensor, w: Tensor) -> Tensor:
    """Returns the gradient of 1 − cos(ΔW, B Ā) for each layer of a stack.

    With n² = ⟨B, B G⟩ it is −M / (n w) + ⟨B, M⟩ / (n³ w) B G.
    """
    BG = B @ G
    n = (B * BG).sum((-2, -1), keepdim=True).sqrt()
    along = (B * M).sum((-2, -1), keepdim=True)
    return along / (n**3 * w) * BG - M / (n * w)
