"""Names the moment of a method that returned something else than it may."""

from __future__ import annotations

from collections.abc import Mapping
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
