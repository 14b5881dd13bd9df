"""Finds and names values that are not finite: in weights, and in a step's loss and gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# The step of a term that is finite so far: larger than any step, so that `min` finds the others.
NEVER = torch.iinfo(torch.int64).max


class FiniteWatch:
    """Remembers the steps at which loss, penalty and gradients were first not finite.

    The steps are kept on the device: the host waits for it only when it calls `found`.
    """

    NAMES = ("loss", "penalty", "the gradients")  # in the order in which a step computes them

    def __init__(self, device: torch.device) -> None:
        self._first = torch.full((len(self.NAMES),), NEVER, device=device)

    def see(self, step: int, loss: Tensor, penalty: Tensor | None, gradient_norm: Tensor) -> None:
        """Checks the scalars of one training step; a penalty of None counts as finite."""
        # No `if` on a value: it would wait for the device in every step.
        terms = (loss, torch.zeros_like(loss) if penalty is None else penalty, gradient_norm)
        finite = torch.isfinite(torch.stack([term.detach().to(loss.dtype) for term in terms]))
        self._first = torch.where(finite, self._first, self._first.clamp(max=step))

    def found(self) -> tuple[int, int] | None:
        """Returns (step, index in NAMES) of the first value that was not finite, or None."""
        firsts = self._first.tolist()
        step = min(firsts)  # `index` then takes the first term in the order of NAMES
        return None if step == NEVER else (step, firsts.index(step))


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Names the first tensor that holds NaN or infinity and counts the others.

    Returns None if all values are finite.
    """
    # One answer for all tensors first: each question to a GPU waits for it.
    floating = {
        name: t.detach() for name, t in tensors.items() if t.is_floating_point() and t.numel()
    }
    if not floating or bool(torch.stack([t.isfinite().all() for t in floating.values()]).all()):
        return None
    bad = [name for name, t in floating.items() if not t.isfinite().all()]
    first = floating[bad[0]]
    values = f"{bad[0]} ({int((~first.isfinite()).sum()):,} of its {first.numel():,} values)"
    return values + (f" and {len(bad) - 1} more tensors" if len(bad) > 1 else "")
