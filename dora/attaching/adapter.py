"""A method's components in a model of one's own, moved along by whatever loop trains it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dora.adapters import changes, result
from dora.adapters.peft import merged
from dora.adapters.plan import Plan
from dora.adapters.result import snapshot
from dora.attaching import checks
from dora.attaching.buffers import head_buffers, refuse_moved_averages, running_averages
from dora.attaching.linears import put_back
from dora.attaching.saving import save
from dora.attaching.state import add_hooks, check, split, state_of, take_up
from dora.attaching.watch import StepWatch
from dora.errors import UserError
from dora.guarding.guard import Guard
from dora.methods.base import ParameterGroup, overrides
from dora.methods.groups import parameter_groups


class Adapter:
    """A method attached to a model, as `dora.attach` returns it.

    `model`: the model, with its backbone frozen. `steps`: the planned number of optimizer steps, 0
    for a method without a schedule; `taken`: those taken. `plan`: ranks at the start and the end.
    `head`: names of the modules that are trained whole.
    """

    def __init__(
        self,
        model: nn.Module,
        guard: Guard,
        plan: Plan,
        steps: int,
        head: list[str],
        originals: Mapping[str, nn.Module],
        arguments: str,
    ) -> None:
        """Takes up what `dora.attach` has made.

        `originals`: the adapted linears by name, as they were. `arguments`: in words, the arguments
        of `attach` on which further training depends.
        """
        self.model, self.method, self.plan = model, guard.method, plan
        self.steps, self.head, self.taken, self.arguments = steps, head, 0, arguments
        self._guard, self._originals = guard, dict(originals)
        # BatchNorm's, which training changes even in a frozen backbone and PEFT's file cannot hold.
        self._averages = snapshot(running_averages(model))
        self._acts = any(overrides(type(guard.method), m) for m in ("after_step", "update"))
        self._watch = StepWatch(list(self.method.layers.values()), strict=self._acts)
        self._checked = False  # whether the first step has been checked
        self._asked = False  # whether the penalty was ever asked for
        self._device, self._dtype = self.device, self._factor.dtype
        self._hooks = add_hooks(self)

    @property
    def _factor(self) -> Tensor:
        """One of the components' tensors, for what all of them share."""
        return next(iter(self.method.layers.values())).A

    @property
    def device(self) -> torch.device:
        """The device of the components."""
        return self._factor.device

    @property
    def moves_itself(self) -> bool:
        """True if the method moves some parameters itself (SoRA's gates), without the optimizer."""
        return bool(self._by_method)

    # Asked anew each time: loading a state with assign=True puts other parameters in the layers.
    @property
    def _by_method(self) -> list[nn.Parameter]:
        """The parameters that the method moves itself."""
        groups = self.method.parameter_groups()
        return [p for group in groups if group.by_method for p in group.parameters]

    @property
    def _own_groups(self) -> list[ParameterGroup]:
        """The groups with rates or decays of the method's own, for the optimizer."""
        return [group for group in self.method.parameter_groups() if not group.by_method]

    # --- what the optimizer gets ---

    def parameters(self) -> list[nn.Parameter]:
        """Returns what the optimizer trains: the components and the head."""
        spared = set(self._by_method)
        return [p for p in self.model.parameters() if p.requires_grad and p not in spared]

    def groups(self, lr: float, weight_decay: float = 0.01) -> list[dict[str, Any]]:
        """Returns the optimizer's groups with the rates and decays that the method states (LoRA+).

        Biases and LayerNorms are not decayed, as in the Transformers Trainer.
        """
        own = self.method.parameter_groups()
        found = parameter_groups(self.model, (), lr, None, weight_decay, False, own)
        return [
            {"params": g["params"], "lr": g["peak"], "weight_decay": g["weight_decay"]}
            for g in found
        ]

    # --- in every step ---

    def penalty(self) -> Tensor:
        """Returns the method's term in the training loss, a scalar, 0 where it has none.

        It counts once an optimizer step. Where the loss of a micro-batch is divided by their
        number, divide the sum of both.
        """
        if self._acts and self._watch.due():
            raise UserError(
                "the optimizer has stepped and adapter.step() was not called after it: the order is "
                "backward(), optimizer.step(), adapter.step(), zero_grad()"
            )
        self._asked = True
        with self._awake():
            term = self._guard.penalty(self.taken + 1)
        return torch.zeros((), device=self.device) if term is None else term

    def add_penalty_gradient(self) -> None:
        """Adds the gradient of `penalty` to `.grad`, for a loop whose loss is out of reach."""
        term = self.penalty()
        if not term.requires_grad:
            return
        parameters = self._watch.parameters
        # Not backward(): wrappers such as DistributedDataParallel count its gradients.
        found = torch.autograd.grad(term, parameters, allow_unused=True)
        for p, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                p.grad = gradient if p.grad is None else p.grad + gradient

    def step(self, *optimizers: Any) -> None:
        """Lets the method act, after the optimizer's step and before gradients are cleared.

        It scores components, and masks or removes some. Without an optimizer's step since the last
        call, as in the middle of gradient accumulation, it does nothing. Moments follow in every
        torch optimizer that has stepped on the components; it need not be given. `optimizers`:
        those that have stepped and are no torch.optim.Optimizer, so that nothing tells of it.
        """
        known = torch.optim.Optimizer  # accelerate's wrapper is one, Lightning's holds one
        others = [o for o in optimizers if not isinstance(getattr(o, "optimizer", o), known)]
        with self._awake():
            if not (others or self._watch.due()):
                checks.refuse_unheld(self._watch, self.model)
                return
            seen, rate = self._watch.take()
            moved = [*seen, *others]
            if not self._checked:
                self._checked = True
                checks.refuse_loss_without_term(self.method, self.taken, self._asked)
                checks.refuse_cast(self._dtype, self._factor.dtype)
                checks.refuse_mixed_groups(self.method, self._by_method, self._own_groups, moved)
                checks.refuse_removal_in_several_processes(self.method)
                checks.warn_of_unused(self.method, self.parameters(), self.taken + 1)
            parameters = self._watch.parameters
            checks.refuse_cleared_gradients(self.method, parameters, first=self.taken == 0)
            checks.refuse_unbounded_gradients(self.method, self._by_method, self.taken + 1)
            self.taken += 1
            if self.moves_itself:
                rate = float(others[0].param_groups[0]["lr"]) if rate is None else rate
                self.method.update(self.taken, rate)
            try:
                change = self._guard.after_step(self.taken)
            except FloatingPointError as e:
                why = f"{e} after step {self.taken}: training has diverged, lower its learning rate"
                raise FloatingPointError(why) from e
            if change is not None:
                changes.apply(change, self.method.layers.values(), *moved)
        # The optimizer's zero_grad() leaves these alone: it does not know them.
        for p in self._by_method:
            p.grad = None

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """Lets the method compute without autocast, with its state on the model's present device.

        Raises UserError for an adapter that was merged.
        """
        if not self._originals:
            raise UserError("this adapter was merged: the model holds plain linears now")
        if self.device != self._device:
            self.method.load(self.method.state())
            self._device = self.device
        kind = self.device.type
        there = torch.amp.is_autocast_available(kind)
        with torch.autocast(kind, enabled=False) if there else nullcontext():
            yield

    # --- what there is ---

    def ranks(self) -> dict[str, int]:
        """Returns how many components of each matrix live, by its name."""
        if self.taken == 0:  # gates begin at 0, as masked ones are
            return {name: layer.rank for name, layer in self.method.layers.items()}
        return self.method.ranks()

    def __repr__(self) -> str:
        of = f" of {self.steps}" if self.steps else ""
        if not self._originals:
            return f"<{self.method.title} after step {self.taken}{of}: merged>"
        ranks = list(self.ranks().values())
        return (
            f"<{self.method.title} after step {self.taken}{of}: {sum(ranks)} components in "
            f"{len(ranks)} matrices, {self.plan.params(ranks):,} parameters, "
            f"budget {self.plan.budget}>"
        )

    def describe(self) -> str:
        """Returns the plan for the budget in lines: components and parameters at start and end."""
        return "\n".join(self.plan.describe())

    # --- what is kept ---

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the components, the head, BatchNorm's averages and the method's state, to go on
        with after a restart.

        The model's own `state_dict()` holds all of it too, beside the backbone.
        """
        with self._awake():
            held = {**self._tensors(), **self._buffers()}
        return {**{name: t.detach() for name, t in held.items()}, **state_of(self)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes up a `state_dict()`, whose ranks may differ from the present ones.

        Raises UserError where it is not of this model, method and settings.
        """
        held, own = split(state)
        there = self._tensors().keys() | self._buffers().keys()
        # A method that renews its components keeps more of them later than at the start.
        kept = {f"{name}.{k}" for name in self.method.layers for k in ("kept_A", "kept_B")}
        if wrong := sorted((there ^ held.keys()) - kept):
            raise UserError(
                f"this state is of another model, method or target: {', '.join(wrong[:3])}"
            )
        check(self, own)
        result.restore(self.model, self.method.frozen(), held)
        take_up(self, own)

    def _tensors(self) -> dict[str, Tensor]:
        """Returns every trained tensor, and the method's frozen ones, by name."""
        return result.tensors_of(self.model, self.method.frozen())

    def _buffers(self) -> dict[str, Tensor]:
        """Returns the buffers that training changes: the head's, and averages in the backbone."""
        return {**running_averages(self.model), **head_buffers(self.model, self.head)}

    def save(self, folder: str | Path) -> None:
        """Writes components and head in PEFT's format.

        `PeftModel.from_pretrained(base, folder)` then computes what this model does.
        """
        with self._awake():
            refuse_moved_averages(self.model, self.head, self._averages)
            self._warn_of_budget("saved")
            self._guard.stored()
            save(Path(folder), self.model, self.method.layers, self.head, self._originals)

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Adds every update to its weight and puts the plain linears back; returns the model.

        The adapter cannot be used afterwards. Raises UserError if a weight is quantised.
        """
        with self._awake():
            if any(layer.packed for layer in self.method.layers.values()):
                raise UserError(
                    "an update would be lost in the rounding of a quantised weight: save() the "
                    "adapter, and let PEFT merge it into the model in 16 or 32 bits"
                )
            self._warn_of_budget("merged")
            self._guard.stored()
            for name, layer in self.method.layers.items():
                layer.weight.copy_(merged(layer.weight, *layer.stored(), layer.magnitude))
                self.model.set_submodule(name, put_back(self._originals[name], layer.base))
        for hook in self._hooks:
            hook.remove()
        self._watch.close()
        self._originals.clear()
        return self.model

    def _warn_of_budget(self, done: str) -> None:
        """Warns where the adapter holds another number of components than its budget."""
        ranks, final = list(self.ranks().values()), self.method.ranks_final_at
        if self.taken < final:
            problem = f"its components are final after step {final}, not before"
        else:
            problem = self.plan.missed(ranks) or ""
        if problem:
            warnings.warn(
                f"adapter {done} after step {self.taken} with {sum(ranks)} components, budget "
                f"{self.plan.budget}: {problem}",
                stacklevel=3,
            )
