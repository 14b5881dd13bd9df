"""Checks the values that a method's moments return; an error names the method and the moment."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from torch import Tensor

from dora.errors import UserError

T = TypeVar("T")


def checked(method: Any, moment: str, value: T, *kinds: type) -> T:
    """Returns `value` if it is None or of one of `kinds`. Raises UserError with the moment if not.

    Without it a slip in a method of one's own would show as an error within the suite.
    """
    if value is None or isinstance(value, kinds):
        return value
    allowed = " or ".join([*(kind.__name__ for kind in kinds), "None"])
    raise UserError(
        f"{type(method).__name__}.{moment} returned a {type(value).__name__} ({value!r:.60}), "
        f"which must be {allowed}"
    )


def checked_state(
    method: Any, held: Mapping[str, Tensor] = MappingProxyType({})
) -> dict[str, Tensor]:
    """Returns the method's `state()` if a checkpoint can hold it beside the tensors `held`.

    Raises UserError if it is no dictionary of tensors by name, or one memory has two names.
    """
    name = f"{type(method).__name__}.state"
    state = method.state()
    if not isinstance(state, dict):
        raise UserError(
            f"{name} returned a {type(state).__name__} ({state!r:.60}), which must be a dict"
        )
    # A resumed run would have two tensors, of which one no longer follows the other.
    places = {t.data_ptr(): other for other, t in held.items() if t.numel()}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{name} returned a {type(value).__name__} ({value!r:.60}) as {key!r}, which must "
                "be a Tensor by its name: torch.tensor(value) makes one of a number"
            )
        if value.numel() and (other := places.setdefault(value.data_ptr(), key)) != key:
            raise UserError(
                f"{name} returned as {key!r} the memory that is saved as {other!r} already: leave "
                "it out and let load() take that one, or keep a clone"
            )
    return state


def checked_round(
    method: Any, value: Any, before: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Returns what `aggregate` returned, if its tensors have the names and shapes of `before`.

    Raises UserError if not: a tensor of another shape would be stretched to fit.
    """
    moment = f"{type(method).__name__}.aggregate"
    if not (isinstance(value, tuple) and len(value) == 2):
        raise UserError(f"{moment} must return the global tensors and a dict of numbers to log")
    new, about = value
    if not all(isinstance(part, Mapping) for part in value):
        kinds = " and a ".join(type(part).__name__ for part in value)
        raise UserError(f"{moment} returned a {kinds}, which must both be dicts")
    if lacking := [name for name in before if name not in new]:
        raise UserError(
            f"{moment} returned {len(new)} tensors of the {len(before)} that clients train, without "
            f"{lacking[0]}: one that the server leaves alone keeps its value in `before`"
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
