"""Watches which optimizers move an adapter's parameters, and at which rate."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from dora.adapters.lowrank import LowRankLinear
from dora.errors import UserError

# Weak: PyTorch's hooks are global, and must not keep an adapter alive.
_watches: weakref.WeakSet[StepWatch] = weakref.WeakSet()


# One hook each for all, which stays: PyTorch goes through its table of hooks while the garbage
# collector may find a dropped adapter, and fails where a hook is taken from the table meanwhile.
def _stepping(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    for watch in list(_watches):
        watch._prepare(optimizer, closure is not None)


def _stepped(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for watch in list(_watches):
        watch._note(optimizer)


register_optimizer_step_pre_hook(_stepping)
register_optimizer_step_post_hook(_stepped)


class StepWatch:
    """Notes each step of an optimizer that holds any of the layers' components.

    A loop, the Transformers Trainer and accelerate make the optimizer after the adapter, or wrap
    it, and PyTorch tells of every optimizer's step. `strict`: two steps of one optimizer without a
    `take` between them are an error. `before`: called once between two calls of `take`, when the
    first optimizer is about to step, unless it is None; its argument says whether all gradients are
    there.
    """

    def __init__(
        self,
        layers: Sequence[LowRankLinear],
        strict: bool,
        before: Callable[[bool], None] | None,
    ) -> None:
        self.layers, self.strict, self.before = list(layers), strict, before
        self._prepared = False  # whether `before` was called since `take`
        self._seen: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        # By optimizer: the rate of its last step, for those that have stepped since `take`.
        self._stepped: dict[torch.optim.Optimizer, float] = {}
        # Steps of optimizers that hold no component, for as long as none was seen that does.
        self._others: weakref.WeakKeyDictionary[torch.optim.Optimizer, int]
        self._others = weakref.WeakKeyDictionary()
        _watches.add(self)

    def close(self) -> None:
        """Ends the watch."""
        _watches.discard(self)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The components' tensors, as the layers hold them now.

        Loading a state with assign=True puts other objects in their places.
        """
        return [p for layer in self.layers for p in layer.factors().values()]

    def __reduce__(self) -> tuple[type[StepWatch], tuple[Any, ...]]:
        """Makes a copy, of a deep-copied or pickled model, a watch of the copied parameters."""
        return StepWatch, (self.layers, self.strict, self.before)

    def due(self) -> bool:
        """Says whether an optimizer has stepped since the last `take`."""
        return bool(self._stepped)

    def passed_by(self, model: nn.Module) -> bool:
        """Says whether an optimizer of this model stepped twice, and none held a component yet.

        Another model's may step as often as it will.
        """
        if self._seen or not any(steps > 1 for steps in self._others.values()):
            return False
        own = set(model.parameters())
        return any(
            not own.isdisjoint(group["params"])
            for optimizer, steps in self._others.items()
            if steps > 1
            for group in optimizer.param_groups
        )

    def take(self) -> tuple[list[torch.optim.Optimizer], float | None]:
        """Returns the optimizers seen so far, and the last step's rate, None without a step."""
        rate = next(iter(self._stepped.values()), None)
        self._stepped.clear()
        self._prepared = False
        return list(self._seen), rate

    def forget(self) -> None:
        """Goes back to before a step that began and did not end, as one that was interrupted."""
        self._prepared = False

    def _prepare(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """Calls `before` if this optimizer is the first to step on a component.

        `closure`: the optimizer computes gradients itself.
        """
        if self.before is None or self._prepared or self._rate(optimizer) is None:
            return
        # -1 outside of a backward pass, within which an optimizer may step, tensor by tensor.
        within = torch._C._current_graph_task_id() != -1
        self.before(not (closure or within))
        self._prepared = True

    def _note(self, optimizer: torch.optim.Optimizer) -> None:
        rate = self._rate(optimizer)
        if rate is None:
            if not self._seen:
                self._others[optimizer] = self._others.get(optimizer, 0) + 1
            return
        if self.strict and optimizer in self._stepped:
            raise UserError(
                "the optimizer has stepped twice without the adapter, whose ranks would never "
                "change: call adapter.step() after each optimizer.step(), in the Transformers "
                "Trainer pass callbacks=[dora.TrainerCallback(adapter)]"
            )
        self._stepped[optimizer] = rate

    def _rate(self, optimizer: torch.optim.Optimizer) -> float | None:
        """Returns the learning rate of the group that holds our parameters; None without any."""
        # Asked in every step: an optimizer may be given groups after its first steps.
        own = set(self.parameters)
        for group in optimizer.param_groups:
            if not own.isdisjoint(group["params"]):
                self._seen.add(optimizer)
                return float(group.get("lr", 0.0))
        return None
