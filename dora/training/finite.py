"""What is not finite is found and named: weights before training, loss, penalty and gradients while
it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

NEVER = torch.iinfo(torch.int64).max


class Watch:
    """Remembers at which step loss, penalty and gradients were first not finite.

    It stays on the device: the host waits only where it asks.
    """

    NAMES = ("loss", "penalty", "the gradients")  # in the order in which a step computes them

    def __init__(self, device: torch.device) -> None:
        self._first = torch.full((len(self.NAMES),), NEVER, device=device)

    def see(self, step: int, loss: Tensor, penalty: Tensor | None, gradient_norm: Tensor) -> None:
        """Looks at the scalars of one training step; no penalty is a finite one."""
        terms = (loss, torch.zeros_like(loss) if penalty is None else penalty, gradient_norm)
        finite = torch.isfinite(torch.stack([term.detach().to(loss.dtype) for term in terms]))
        self._first = torch.where(finite, self._first, self._first.clamp(max=step))

    def found(self) -> tuple[int, int] | None:
        """(step, place in NAMES) of what was the first not to be finite; None while all is well."""
        firsts = self._first.tolist()
        step = min(firsts)
        return None if step == NEVER else (step, firsts.index(step))


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Names the first tensor that holds NaN or infinity and counts the others; None where all are
    finite.
    """
    # One answer for all tensors: each question to a GPU waits for it.
    floating = {
        name: t.detach() for name, t in tensors.items() if t.is_floating_point() and t.numel()
    }
    if not floating or bool(torch.stack([t.isfinite().all() for t in floating.values()]).all()):
        return None
    bad = [name for name, t in floating.items() if not t.isfinite().all()]
    first = floating[bad[0]]
    values = f"{bad[0]} ({int((~first.isfinite()).sum()):,} of its {first.numel():,} values)"
    return values + (f" and {len(bad) - 1} more tensors" if len(bad) > 1 else "")
