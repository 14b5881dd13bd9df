"""Guards a run against mistakes in its method: the loop asks the method's moments through it.

A mistake in a method of the user's own would else show as an error within the suite, or as a score
of a model that nobody could make again. The suite's own methods are tested for most of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from types import NoneType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dora.adapters import result
from dora.adapters.changes import Change, Mask, Remove, Renew
from dora.adapters.plan import Plan
from dora.adapters.resizing import lay_in_order
from dora.configuration.method_class import is_released
from dora.errors import UserError
from dora.guarding.counted import check_counted
from dora.guarding.loaded import Loaded, sums
from dora.guarding.stored import check_stored
from dora.methods.base import FirstRows, Method

T = TypeVar("T")


class Guard:
    """Asks a method for its values, and raises an error that names the moment at fault.

    `method`: attached to `model`. `loaded`: of the model before that; without it, the backbone may
    change. `own`: the method is one of the user's own; a step of others costs nothing more.
    """

    def __init__(self, method: Method, model: nn.Module, loaded: Loaded | None = None) -> None:
        self.method, self.own = method, not is_released(type(method))
        self._name, self._model = type(method).__name__, model
        self._loaded = loaded or Loaded(type(method), model)
        # The trained parameters by name, and their shapes as the loop knows them.
        self._parameters: dict[str, nn.Parameter] = {}
        self._shapes: list[torch.Size] = []
        # Names of the tensors that have had no gradient so far, and whether any step was checked.
        self._idle: list[str] = []
        self._checked = False

    # --- before the first step ---

    def attached(self, plan: Plan | None, head: Sequence[str] = ()) -> None:
        """Checks what the method, just attached, trains and stores.

        `head`: names of the head's parameters. Raises UserError if the result would lack a tensor, or
        if a method of one's own stores another number of parameters than its plan counts.
        """
        self._loaded.after_attaching(self.method, head)
        if self.own and plan is not None:
            check_counted(self.method, plan, self._model, head)

    def begin(self, forward: FirstRows) -> None:
        """Lets the method set start values; raises UserError if a resumed run would lack one."""
        before = sums(self._model)
        self.method.begin(forward)
        held = result.tensors_of(self._model, self.method.frozen())
        after = sums(self._model)
        if lost := [name for name in after if name not in held and after[name] != before.get(name)]:
            raise UserError(
                f"{self._name}.begin sets {', '.join(lost[:3])}, which neither is trained "
                "nor named by frozen(): a resumed run would lack it; let frozen() name it"
            )

    def watch(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Takes up what the optimizer trains, once the model is as the first step finds it."""
        self._parameters = dict(parameters)
        self._idle = list(parameters)
        self.note()
        self._loaded.before_training()

    # --- in a step ---

    def learning_rate(self, step: int, usual: float) -> float:
        """Returns the step's share of the peak rate."""
        return self._kind("learning_rate", self.method.learning_rate(step, usual), Real)

    def penalty(self, step: int) -> Tensor | None:
        """Returns the method's term in the loss."""
        return self._kind("penalty", self.method.penalty(step), Tensor, NoneType)

    def after_step(self, step: int) -> Change | None:
        """Returns the method's change after a step, which the caller applies and then `note`s."""
        change = self._kind(
            "after_step", self.method.after_step(step), Mask, Remove, Renew, NoneType
        )
        self.check(step)
        return change

    def _kind(self, moment: str, value: T, *kinds: type) -> T:
        """Returns the value of a moment. Raises UserError if it is of none of `kinds`."""
        if isinstance(value, kinds):
            return value
        allowed = " or ".join(kind.__name__.replace("NoneType", "None") for kind in kinds)
        raise UserError(
            f"{self._name}.{moment} returned a {type(value).__name__} ({value!r:.60}), "
            f"which must be {allowed}"
        )

    def check(self, step: int) -> None:
        """Raises UserError if a trained tensor has another shape than noted, or was frozen.

        The optimizer's moments fit the tensors as the loop knows them, and the optimizer itself
        checks no shapes. Called in every step, this asks for nothing that lies on the device.
        """
        if not self.own:
            return
        self._checked = True
        self._idle = [name for name in self._idle if self._parameters[name].grad is None]
        for (name, p), before in zip(self._parameters.items(), self._shapes, strict=True):
            if p.shape != before:
                raise UserError(
                    f"{self._name} changed {name} from {tuple(before)} to {tuple(p.shape)} by "
                    f"itself in step {step}, and the optimizer's moments do not follow it: let "
                    "after_step return Remove or Renew (dora.adapters.changes), which the loop "
                    "applies to both"
                )
            if not p.requires_grad:
                raise UserError(
                    f"{self._name} froze {name} in step {step}, which its result would lack: a "
                    "tensor that stands still for some steps stays trained, and "
                    "adjust_clipped_gradients sets its .grad to None in these"
                )
        lay_in_order(self._parameters.values())

    def note(self) -> None:
        """Notes the present shapes, after the loop itself has changed them."""
        self._shapes = [p.shape for p in self._parameters.values()]

    # --- between steps ---

    def state(self, held: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns the method's state, for a checkpoint that holds the tensors `held` beside it.

        Raises UserError if it is no dictionary of tensors by name, or one memory has two names.
        """
        name, state = f"{self._name}.state", self.method.state()
        if not isinstance(state, dict):
            raise UserError(
                f"{name} returned a {type(state).__name__} ({state!r:.60}), which must be a dict"
            )
        # A resumed run would have two tensors, of which one no longer follows the other.
        places = {t.data_ptr(): other for other, t in (held or {}).items() if t.numel()}
        for key, value in state.items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise UserError(
                    f"{name} returned a {type(value).__name__} ({value!r:.60}) as {key!r}, which "
                    "must be a Tensor by its name: torch.tensor(value) makes one of a number"
                )
            if value.numel() and (other := places.setdefault(value.data_ptr(), key)) != key:
                raise UserError(
                    f"{name} returned as {key!r} the memory that is saved as {other!r} already: "
                    "leave it out and let load() take that one, or keep a clone"
                )
        return state

    def aggregate(
        self, uploads: list[dict[str, Tensor]], shares: list[float], before: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Returns the global tensors after a round, and numbers to log.

        Raises UserError unless the tensors have the names and shapes of `before`: one of another
        shape would be stretched to fit.
        """
        moment = f"{self._name}.aggregate"
        value: Any = self.method.aggregate(uploads, shares, before)
        if not (isinstance(value, tuple) and len(value) == 2):
            raise UserError(f"{moment} must return the global tensors and a dict of numbers to log")
        new, about = value
        if not all(isinstance(part, Mapping) for part in value):
            kinds = " and a ".join(type(part).__name__ for part in value)
            raise UserError(f"{moment} returned a {kinds}, which must both be dicts")
        if lacking := [name for name in before if name not in new]:
            raise UserError(
                f"{moment} returned {len(new)} tensors of the {len(before)} that clients train, "
                f"without {lacking[0]}: one that the server leaves alone keeps its value in `before`"
            )
        if unknown := [name for name in new if name not in before]:
            raise UserError(f"{moment} returned {unknown[0]!r}, which no client trains")
        for name, tensor in new.items():
            if not isinstance(tensor, Tensor) or tensor.shape != before[name].shape:
                found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise UserError(
                    f"{moment} returned {name} as {found}, which must be a tensor of shape "
                    f"{tuple(before[name].shape)}"
                )
        for key, number in about.items():
            if not isinstance(number, int | float):
                raise UserError(
                    f"{moment} returned {key}={number!r:.60} for the log, which must be a number"
                )
        return dict(new), dict(about)

    def check_identity(self, step: int) -> None:
        """Raises UserError unless the model trains the very tensors that the optimizer has.

        It goes through all modules: for evaluations and checkpoints, not for every step.
        """
        now = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        for name in self._parameters | now:
            if name not in now or now[name] is not self._parameters.get(name):
                what = "put another tensor in the place of" if name in now else "took away or froze"
                if name not in self._parameters:
                    what = "began to train"
                raise UserError(
                    f"{self._name} {what} {name} by step {step}, and the optimizer does not know "
                    "of it: __init__ says which tensors are trained for the whole run; set values "
                    "in place (copy_), and let after_step return Remove or Renew for other shapes"
                )

    # --- at the end ---

    def ended(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """Returns a warning of tensors that no loss has reached, for a method of one's own.

        Asked at the end, since a method may train some of its tensors late. A run of several
        processes has no answer: their sum has zeros in place of a missing gradient. Raises
        UserError if training has changed the backbone.
        """
        self._loaded.after_training(self.method)
        # In a resumed run the moments tell which tensors had gradients before the checkpoint. A
        # matrix without components has tensors without entries.
        idle = {name: self._parameters[name] for name in self._idle}
        names = [name for name, p in idle.items() if p.numel() and not optimizer.state.get(p)]
        if not (self._checked and names):
            return []
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        return [
            f"{self._name} trains {names[0]}{more}, and no loss has reached "
            f"{'them' if more else 'it'} in the whole run, so that the optimizer has moved none of "
            "it: use such a tensor in the forward pass, or freeze it in __init__"
        ]

    def stored(self) -> None:
        """Raises RunFailed if a layer stores another update than it adds."""
        if self.own:
            check_stored(self.method)
