"""Training rows run through the model before the first step: inputs and gradients for `begin`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dora.adapters.lowrank import LowRankLinear
from dora.configuration.config import Config
from dora.data.order import order
from dora.data.tokens import Tokens
from dora.methods.base import FirstRows
from dora.training.forward import task_loss

ROWS = 32  # in one batch


def calibrator(
    config: Config,
    model: nn.Module,
    layers: Iterable[LowRankLinear],
    train: Tokens,
    device: torch.device,
) -> FirstRows:
    """Returns a function that runs the first n training rows of epoch 0 through the model.

    The model is in evaluation mode, so that nothing random is drawn. Rows of one batch have one
    length, so that no padding enters a layer's input. `layers`: the method's, whose frozen weights
    get gradients as well.
    """
    layers = list(layers)

    def forward(number: int, backward: bool = False) -> None:
        """Runs the first `number` rows; with `backward` their gradients are left (`FirstRows`)."""
        model.eval()
        epoch = order(config.seed, 0, train.lengths, config.batch_size, config.batching)
        rows = np.concatenate(epoch)[:number]
        # By length, then in the epoch's order, so that sums have one order on every machine.
        rows = rows[np.argsort(train.lengths[rows], kind="stable")]
        # A compiled model need not ask for hooks that it was compiled without.
        eager = torch.compiler.set_stance("force_eager") if config.compile else nullcontext()
        with eager, _gradients(model, layers) if backward else torch.no_grad():
            for _, group in groupby(rows, key=lambda row: train.lengths[row]):
                alike = np.array(list(group))
                for at in range(0, len(alike), ROWS):
                    some = alike[at : at + ROWS]
                    batch = train.batch(some)
                    del batch["attention_mask"]  # nothing is padded
                    out = model(**{k: torch.from_numpy(v).to(device) for k, v in batch.items()})
                    if backward:
                        labels = torch.from_numpy(np.asarray(train.label)[some]).to(device)
                        loss = task_loss(config.glue_task, out.logits, labels)
                        (loss / len(rows)).backward()

    return forward


@contextmanager
def _gradients(model: nn.Module, layers: list[LowRankLinear]) -> Iterator[None]:
    """Lets the backward passes of the context leave gradients, in place of all that were there.

    A layer's frozen weight gets none by itself: zeros in its shape are multiplied with the layer's
    input beside it, and their gradient is the weight's.
    """
    model.zero_grad()
    # Without memory of their own, however large the model.
    zeros = [q.weight.new_zeros(()).expand_as(q.weight).requires_grad_() for q in layers]
    with ExitStack() as hooks:
        for layer, zero in zip(layers, zeros, strict=True):
            hooks.enter_context(layer.register_forward_hook(partial(_add_product, zero)))
        yield
    for layer, zero in zip(layers, zeros, strict=True):
        # None: no row has come through the layer.
        layer.weight.grad = torch.zeros_like(layer.weight) if zero.grad is None else zero.grad


def _add_product(zero: Tensor, layer: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """Runs as a forward hook of `layer`; returns y + 0 x, (..., d_out)."""
    return y + F.linear(args[0], zero)
