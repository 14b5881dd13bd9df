"""Names the moment of a method that returned something else than it may."""

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
