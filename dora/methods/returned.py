"""Names the moment of a method that returned something else than it may."""

from __future__ import annotations

from typing import Any, TypeVar

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
