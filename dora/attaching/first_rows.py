"""Training rows run through an attached model before its first step, for a method's `begin`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

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
        with _left_as_it_is(self.model), _eager():
            if backward:
                with weight_gradients(self.model, self.layers):
                    self._run(number).backward()
            else:
                with torch.no_grad():
                    self._run(number, graded=False)
        gradients = [layer.weight.grad for layer in self.layers]
        if backward and not any(g is not None and bool(g.any()) for g in gradients):
            raise UserError(
                "the loss of the function given to adapter.begin() has no gradient by any adapted "
                "linear: is checkpointing on, which needs use_reentrant=False here?"
            )

    def _run(self, number: int, graded: bool = True) -> Tensor:
        """Returns the loss of the owner's function. Raises UserError if it is none of this model.

        `graded`: the loss must have a gradient.
        """
        assert self.mean_loss is not None
        reached: list[nn.Module] = []
        with ExitStack() as hooks:
            for layer in self.layers:
                hooks.enter_context(
                    layer.register_forward_pre_hook(lambda layer, args: reached.append(layer))
                )
            loss = self.mean_loss(number)
        if not reached:
            raise UserError(
                "the function given to adapter.begin() has run no row through the linears that are "
                "adapted: let it call the model that the adapter is attached to"
            )
        if graded and not (isinstance(loss, Tensor) and loss.dim() == 0 and loss.requires_grad):
            raise UserError(
                "the function given to adapter.begin() must return the rows' mean loss, a scalar "
                f"tensor with a gradient, and returned {loss!r:.60}"
            )
        return loss


@contextmanager
def _left_as_it_is(model: nn.Module) -> Iterator[None]:
    """Has the model in evaluation mode; puts back each module's mode and buffers afterwards."""
    training = [module for module in model.modules() if module.training]
    # A model may count or cache in them.
    buffers = [(t, t.clone()) for t in model.buffers()]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for t, before in buffers:
            if not torch.equal(t, before):
                t.copy_(before)


def _eager() -> AbstractContextManager[None]:
    """Has a compiled model run as it was written: it asks for no hook that came after it."""
    if "torch._dynamo" in sys.modules:  # whose import takes seconds
        return torch.compiler.set_stance("force_eager")
    return nullcontext()
