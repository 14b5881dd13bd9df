"""Training rows run through an attached model before its first step, for a method's `begin`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dora.adapters.lowrank import LowRankLinear
from dora.adapters.weight_gradients import weight_gradients
from dora.errors import UserError

# Runs the model on that many training rows; returns their mean loss, a scalar.
MeanLoss = Callable[[int], Tensor]


class FirstRows:
    """Runs training rows through the model by its owner's function, as `Method.begin` asks.

    `layers`: the method's. `mean_loss`: None where the owner gave none, which is an error only for a
    method that asks for rows.
    """

    def __init__(
        self, model: nn.Module, layers: Iterable[LowRankLinear], mean_loss: MeanLoss | None
    ) -> None:
        self.model, self.layers, self.mean_loss = model, list(layers), mean_loss

    def __call__(self, number: int, backward: bool = False) -> None:
        """Runs `number` rows, with `backward` for their gradients too (`dora.methods.base`)."""
        if self.mean_loss is None:
            raise UserError(
                f"the start values follow from {number} training rows: give adapter.begin() a "
                "function that runs the model on that many rows and returns their mean loss"
            )
        with in_evaluation(self.model):
            if not backward:
                with torch.no_grad():
                    self.mean_loss(number)
                return
            with torch.enable_grad(), weight_gradients(self.model, self.layers):
                loss = self.mean_loss(number)
                if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
                    raise UserError(
                        "the function given to adapter.begin() must return the rows' mean loss, a "
                        f"scalar tensor with a gradient, and returned {loss!r:.60}"
                    )
                loss.backward()


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Has every module in evaluation mode, and puts each back into its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
