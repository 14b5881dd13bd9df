"""A method's components in a model of one's own, moved along by whatever loop trains it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dora.adapters import result
from dora.adapters.peft import merged
from dora.adapters.plan import Plan
from dora.attaching.buffers import head_buffers, refuse_moved_averages, running_averages
from dora.attaching.first_rows import MeanLoss
from dora.attaching.linears import put_back
from dora.attaching.moments import Moments
from dora.attaching.saving import save
from dora.attaching.state import (
    add_hooks,
    check,
    refuse_other_names,
    split,
    state_of,
    take_up,
)
from dora.errors import UserError
from dora.guarding.guard import Guard
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
        self.steps, self.head = steps, head
        self._guard, self._originals, self._arguments = guard, dict(originals), arguments
        # BatchNorm's, which training changes even in a frozen backbone and PEFT's file cannot hold.
        self._averages = result.snapshot(running_averages(model))
        self._moments = Moments(model, guard)
        self._hooks = add_hooks(self._moments, arguments)

    @property
    def taken(self) -> int:
        """The number of optimizer steps so far."""
        return self._moments.taken

    @property
    def begun(self) -> bool:
        """Whether the method has its start values; False for one that waits for `begin`."""
        return self._moments.begun

    @property
    def uses_gradients(self) -> bool:
        """True if the method moves tensors by their gradients (SoRA) or rewrites some (LoRA-Pro)."""
        return bool(self._moments.by_method) or self._moments.adjusts

    # --- before the first step ---

    def begin(self, mean_loss: MeanLoss | None = None) -> None:
        """Lets a method set start values that follow from the weights or from training rows.

        Call it once, after `attach` and before training; not where a state is loaded. It does
        nothing for a method without such values. `mean_loss`: a function that runs the model on a
        number of training rows, its argument, and returns their mean loss; a method that begins at
        the weights alone (CoRA) needs none. The model is in evaluation mode meanwhile.
        """
        self._moments.begin(mean_loss)

    # --- what the optimizer gets ---

    def parameters(self) -> list[nn.Parameter]:
        """Returns what the optimizer trains: the components and the head."""
        return self._moments.trained()

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
        return self._moments.penalty()

    def add_penalty_gradient(self) -> None:
        """Adds the gradient of `penalty` to `.grad`, for a loop whose loss is out of reach."""
        self._moments.add_penalty_gradient()

    def step(self, *optimizers: Any) -> None:
        """Lets the method act, after the optimizer's step and before gradients are cleared.

        It scores components, and masks or removes some. Without an optimizer's step since the last
        call, as in the middle of gradient accumulation, it does nothing. Moments follow in every
        torch optimizer that has stepped on the components; it need not be given. `optimizers`:
        those that have stepped and are no torch.optim.Optimizer, so that nothing tells of it.
        """
        self._moments.step(*optimizers)

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
        with self._moments.awake():
            held = {**self._tensors(), **self._buffers()}
        return {
            **{name: t.detach() for name, t in held.items()},
            **state_of(self._moments, self._arguments),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes up a `state_dict()`, whose ranks may differ from the present ones.

        Raises UserError where it is not of this model, method and settings.
        """
        held, own = split(state)
        refuse_other_names(held, {**self._tensors(), **self._buffers()}, self.method)
        check(self.method, self._arguments, own)
        result.restore(self.model, self.method.frozen(), held)
        take_up(self._moments, own)

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
        with self._moments.awake():
            refuse_moved_averages(self.model, self.head, self._averages)
            self._warn_of_budget("saved")
            self._guard.stored()
            save(Path(folder), self.model, self.method.layers, self.head, self._originals)

    def _warn_of_budget(self, done: str) -> None:
        """Warns where there is another number of components than the budget's.

        `done`: what is done with the adapter, "saved" or "merged".
        """
        ranks, final = list(self.ranks().values()), self.method.ranks_final_at
        problem = self.plan.missed(ranks)
        if self.taken < final:
            problem = f"its components are final after step {final}, not before"
        if problem:
            warnings.warn(
                f"adapter {done} after step {self.taken} with {sum(ranks)} components, budget "
                f"{self.plan.budget}: {problem}",
                stacklevel=3,
            )

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Adds every update to its weight and puts the plain linears back; returns the model.

        The adapter cannot be used afterwards. Raises UserError if a weight is quantised.
        """
        with self._moments.awake():
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
        self._moments.close()
        self._originals.clear()
        return self.model
