"""Refuses a layer of one's own that stores another update than its forward adds.

The stored update is exported beside the run's score, which would be the score of another model. The
suite's own layers are tested for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dora.adapters.lowrank import LowRankLinear
from dora.errors import RunFailed
from dora.methods.base import Method

_ROWS = 8  # random inputs of a layer
_WRONG = 0.05  # of the update's own size; a layer that forgets a factor is off by more


def check_stored(method: Method) -> None:
    """Raises RunFailed if a layer's `stored()` is not what its `forward` adds to the base's output.

    Layers whose rows have norms of their own (`magnitude`) are not asked.
    """
    for name, layer in method.layers.items():
        if layer.magnitude is None and not _agree(layer):
            raise RunFailed(
                f"{type(layer).__name__}.stored() gives another update than forward() adds (at "
                f"{name}), so that what is exported would not score as this run did: let stored() "
                "return two factors of what forward() multiplies with, the scale folded in, or state "
                "result = 'modules' in the method's class (docs/adding-a-method.md)"
            )


@torch.no_grad()
def _agree(layer: LowRankLinear) -> bool:
    """Tells whether the layer's output for random inputs is the base's and the stored update's."""
    W, training = layer.base.weight, layer.training
    x = torch.randn(_ROWS, layer.in_features, generator=torch.Generator().manual_seed(0))
    short = W.dtype.itemsize < 4 and not layer.packed
    x = x.to(W.device, torch.float32 if short else layer.A.dtype)
    layer.eval()
    layer.base.train()  # an evaluation may pack a quantised weight anew, which ends its training
    with torch.autocast(W.device.type, W.dtype if short else torch.bfloat16, enabled=short):
        whole, alone = layer(x), layer.base.forward(x)  # without hooks, which are the layer's
    layer.train(training)
    if not whole.isfinite().all():  # training has diverged, which is no fault of stored()
        return True
    A, B = (t.to(x.dtype) for t in layer.stored())
    update = (x @ A.T) @ B.T
    # The outputs are rounded, in 16 bits to three digits.
    least = (0.02 if short else 1e-4) * _norm(alone)
    return _norm(whole.to(x.dtype) - alone.to(x.dtype) - update) <= _WRONG * _norm(update) + least


def _norm(t: Tensor) -> float:
    return float(torch.linalg.vector_norm(t.float()))
