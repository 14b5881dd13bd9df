"""Refuses changes that a method makes by itself to the tensors that the optimizer trains.

The optimizer's moments fit the tensors as the loop knows them. A tensor of another shape would be
moved by moments of other components, or end the process inside the optimizer. A new tensor in the
place of another would not be trained, and a frozen one would be missing in the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dora.adapters.resizing import lay_in_order
from dora.configuration.method_class import is_released
from dora.errors import UserError


class Trained:
    """The trained parameters of a model by name, and their shapes as the loop knows them.

    `method`: named in messages. `own`: it is one of the user's own; methods of the suite, which are
    tested for it, are not asked in every step.
    """

    def __init__(self, method: Any, parameters: Mapping[str, nn.Parameter]) -> None:
        self._method, self.own = type(method).__name__, not is_released(type(method))
        self._parameters = dict(parameters)
        self._list = list(self._parameters.values())
        self._shapes: list[torch.Size] = []
        # Names of the tensors that have had no gradient so far, and whether any step was checked.
        self._idle, self._checked = list(self._parameters), False
        self.note()

    def note(self) -> None:
        """Notes the present shapes, after the loop itself has changed them."""
        self._shapes = [p.shape for p in self._list]

    def check(self, step: int) -> None:
        """Raises UserError if a tensor has another shape than noted, or was frozen.

        Called in every step, it asks for nothing that lies on the device.
        """
        if not self.own:
            return
        self._checked = True
        self._idle = [name for name in self._idle if self._parameters[name].grad is None]
        if [p.shape for p in self._list] != self._shapes:
            self._refuse_shape(step)
        if all(p.requires_grad and p.is_contiguous() for p in self._list):
            return
        for name, p in self._parameters.items():
            if not p.requires_grad:
                raise UserError(
                    f"{self._method} froze {name} in step {step}, which its result would lack: a "
                    "tensor that stands still for some steps stays trained, and "
                    "adjust_clipped_gradients sets its .grad to None in these"
                )
        lay_in_order(self._list)

    def _refuse_shape(self, step: int) -> None:
        for (name, p), before in zip(self._parameters.items(), self._shapes, strict=True):
            if p.shape != before:
                raise UserError(
                    f"{self._method} changed {name} from {tuple(before)} to {tuple(p.shape)} by "
                    f"itself in step {step}, and the optimizer's moments do not follow it: let "
                    "after_step return Remove or Renew (dora.adapters.changes), which the loop "
                    "applies to both"
                )

    def never_reached(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """Returns a warning of tensors that no loss has reached, for a method of one's own.

        Asked at the end of a run, since a method may train some of its tensors late. A run of
        several processes has no answer: their sum has zeros in place of a missing gradient.
        """
        # In a resumed run the moments tell which tensors had gradients before the checkpoint. A
        # matrix without components has tensors without entries.
        idle = {name: self._parameters[name] for name in self._idle}
        names = [name for name, p in idle.items() if p.numel() and not optimizer.state.get(p)]
        if not (self._checked and names):
            return []
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        return [
            f"{self._method} trains {names[0]}{more}, and no loss has reached "
            f"{'them' if more else 'it'} in the whole run, so that the optimizer has moved none of "
            "it: use such a tensor in the forward pass, or freeze it in __init__"
        ]

    def check_identity(self, model: nn.Module, step: int) -> None:
        """Raises UserError unless the model trains the very tensors that the optimizer has.

        It goes through all modules: for evaluations and checkpoints, not for every step.
        """
        now = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for name in self._parameters | now:
            if name not in now or now[name] is not self._parameters.get(name):
                what = "put another tensor in the place of" if name in now else "took away or froze"
                if name not in self._parameters:
                    what = "began to train"
                raise UserError(
                    f"{self._method} {what} {name} by step {step}, and the optimizer does not know "
                    "of it: __init__ says which tensors are trained for the whole run; set values "
                    "in place (copy_), and let after_step return Remove or Renew for other shapes"
                )
