"""The moments of an attached method, at their places in a training loop of somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dora.adapters import changes
from dora.adapters.lowrank import end_noise
from dora.attaching import checks
from dora.attaching.first_rows import FirstRows, MeanLoss
from dora.attaching.watch import StepWatch
from dora.errors import UserError
from dora.guarding.guard import Guard
from dora.methods.base import moved_by, overrides

# Moments in which a method acts on a step, so that the loop has to tell of each step's end.
ACTING = ("noise", "adjust_clipped_gradients", "update", "after_step")


class Moments:
    """Calls the moments of a method: in the loop's calls of an adapter, and where hooks tell of them.

    `taken`: the number of optimizer steps so far. `begun`: whether the method has its start values.
    `adjusts`: whether it rewrites gradients before the optimizer's step.
    """

    def __init__(self, model: nn.Module, guard: Guard) -> None:
        self.model, self.guard, self.method = model, guard, guard.method
        kind = type(self.method)
        self.taken = 0
        self.begun = not overrides(kind, "begin")
        self.adjusts = overrides(kind, "adjust_clipped_gradients")
        self._acts = any(overrides(kind, moment) for moment in ACTING)
        layers = list(self.method.layers.values())
        # Others need no look before each step.
        before = self._before_step if self.adjusts or not self.begun else None
        self._watch = StepWatch(layers, self._acts, before)
        self._noisy = 0  # the step whose noise is in the layers, 0 for none
        self._checked = False  # whether the first step has been checked
        self._asked = False  # whether the penalty was ever asked for
        self._ended = False
        self._device, self._dtype = self.device, self._factor.dtype
        self._hooks: list[RemovableHandle] = []
        if overrides(kind, "noise"):
            draw = partial(_draw_noise, self)
            self._hooks = [layer.register_forward_pre_hook(draw) for layer in layers]

    @property
    def _factor(self) -> Tensor:
        """One of the components' tensors, for what all of them share."""
        return next(iter(self.method.layers.values())).A

    @property
    def device(self) -> torch.device:
        """The device of the components."""
        return self._factor.device

    # Asked anew each time: loading a state with assign=True puts other parameters in the layers.
    @property
    def by_method(self) -> list[nn.Parameter]:
        """The parameters that the method moves itself."""
        return moved_by(self.method)

    def trained(self) -> list[nn.Parameter]:
        """Returns what the optimizer trains: the components and the head."""
        spared = set(self.by_method)
        return [p for p in self.model.parameters() if p.requires_grad and p not in spared]

    @contextmanager
    def awake(self, begun: bool = True) -> Iterator[None]:
        """Lets the method compute without autocast, with its state on the model's present device.

        Raises UserError after `close`, or if the method must have `begun` and has not.
        """
        if self._ended:
            raise UserError("this adapter was merged: the model holds plain linears now")
        if begun and not self.begun:
            raise UserError(
                f"{self.method.title} has no start values yet: call adapter.begin() after attach, or "
                "load a state"
            )
        if self.device != self._device:
            self.method.load(self.method.state())
            self._device = self.device
        kind = self.device.type
        there = torch.amp.is_autocast_available(kind)
        with torch.autocast(kind, enabled=False) if there else nullcontext():
            yield

    def begin(self, mean_loss: MeanLoss | None) -> None:
        """Has the method set its start values; does nothing for a method that sets none."""
        if not overrides(type(self.method), "begin"):
            return
        if self.begun:
            raise UserError(
                "this adapter has its start values: adapter.begin() comes once, after attach and "
                "before training, and not after a state was loaded"
            )
        rows = FirstRows(self.model, self.method.layers.values(), mean_loss)
        with torch.inference_mode(False), torch.enable_grad(), self.awake(begun=False):
            try:
                self.guard.begin(rows)
            finally:
                self.model.zero_grad()  # those that training rows have left
        self.begun = True

    def penalty(self) -> Tensor:
        """Returns the method's term in the loss, a scalar, 0 where it has none."""
        if self._acts and self._watch.due():
            raise UserError(
                "the optimizer has stepped and adapter.step() was not called after it: the order is "
                "backward(), optimizer.step(), adapter.step(), zero_grad()"
            )
        self._asked = True
        with self.awake():
            term = self.guard.penalty(self.taken + 1)
        return torch.zeros((), device=self.device) if term is None else term

    def add_penalty_gradient(self) -> None:
        """Adds the gradient of `penalty` to `.grad`."""
        term = self.penalty()
        if not term.requires_grad:
            return
        parameters = [p for p in self._watch.parameters if p.requires_grad]
        # Not backward(): wrappers such as DistributedDataParallel count its gradients.
        found = torch.autograd.grad(term, parameters, allow_unused=True)
        for p, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                p.grad = gradient if p.grad is None else p.grad + gradient

    def draw_noise(self) -> None:
        """Has the method draw this step's noise, unless it has."""
        if self._noisy != self.taken + 1:
            # What is drawn here is read in training, wherever this pass stands.
            with torch.inference_mode(False), self.awake():
                self.method.noise(self.taken + 1)
            self._noisy = self.taken + 1

    def _before_step(self, whole: bool) -> None:
        """Has the method rewrite its gradients, as an optimizer is about to take them.

        `whole`: all of the step's gradients are there.
        """
        with self.awake():  # which a method that has not begun is not
            if not self.adjusts:
                return
            if not whole:
                checks.refuse_partial_gradients(self.method)
            self.method.adjust_clipped_gradients(self.taken + 1)

    def step(self, *optimizers: Any) -> None:
        """Has the method act, if an optimizer has stepped since the last call.

        `optimizers`: those that have stepped, of which only others than torch's are needed.
        """
        known = torch.optim.Optimizer  # accelerate's wrapper is one, Lightning's holds one
        others = [o for o in optimizers if not isinstance(getattr(o, "optimizer", o), known)]
        with self.awake():
            if not (others or self._watch.due()):
                checks.refuse_unheld(self._watch, self.model)
                self._watch.forget()
                return
            seen, rate = self._watch.take()
            moved = [*seen, *others]
            if not self._checked:
                self._checked = True
                self._check_first(moved, others)
            parameters = self._watch.parameters
            checks.refuse_cleared_gradients(self.method, parameters, first=self.taken == 0)
            checks.refuse_unbounded_gradients(self.method, self.by_method, self.taken + 1)
            self.taken += 1
            if self.by_method:
                rate = float(others[0].param_groups[0]["lr"]) if rate is None else rate
                self.method.update(self.taken, rate)
            try:
                change = self.guard.after_step(self.taken)
            except FloatingPointError as e:
                why = f"{e} after step {self.taken}: training has diverged, lower its learning rate"
                raise FloatingPointError(why) from e
            if self._hooks:  # by which noise is drawn
                end_noise(self.method.layers.values())
            if change is not None:
                changes.apply(change, self.method.layers.values(), *moved)
        # The optimizer's zero_grad() leaves these alone: it does not know them.
        for p in self.by_method:
            p.grad = None

    def _check_first(self, moved: list[Any], others: list[Any]) -> None:
        """Refuses a loop that uses the adapter otherwise than it must, once its first step shows it.

        `moved`: the optimizers that have stepped; `others`: those of them that are none of torch's.
        """
        if others and self.adjusts:
            checks.refuse_untold(self.method, others[0])
        checks.refuse_loss_without_term(self.method, self.taken, self._asked)
        checks.refuse_cast(self._dtype, self._factor.dtype)
        checks.refuse_mixed_groups(self.method, moved)
        checks.refuse_removal_in_several_processes(self.method)
        checks.warn_of_unused(self.method, self.trained(), self.taken + 1)

    def take_up(self, taken: int, begun: bool) -> None:
        """Goes on after step `taken`, whose tensors and state have been loaded."""
        self.taken, self.begun, self._noisy = taken, begun, 0
        end_noise(self.method.layers.values())

    def close(self) -> None:
        """Ends the use of the adapter."""
        self._ended = True
        for hook in self._hooks:
            hook.remove()
        self._watch.close()


# Not compiled with a model: it draws once a step, whatever the compiled passes do.
@torch.compiler.disable
def _draw_noise(moments: Moments, layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Runs as a forward pre-hook of each layer; acts in training alone."""
    if layer.training:
        checks.refuse_replica(moments.method, layer)
        moments.draw_noise()
