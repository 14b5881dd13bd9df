"""Says in words which type a setting has, for a value of a wrong one."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

# In the singular, and in the plural for a list.
_WORDS = {
    int: ("a whole number, such as 1000", "whole numbers, such as [8,16]"),
    float: ("a number, such as 1e-3", "numbers, such as [0.1,1e-3]"),
    bool: ("true or false", "true and false"),
    str: ("text", "texts"),
}


def type_rule(error: BaseException) -> str | None:
    """Returns the rule that a value breaks, as `must be a number, such as 1e-3, or null`.

    `error`: OmegaConf's, raised as the value was set. Returns None for an error of another kind, and
    for a setting that is a whole group of settings: OmegaConf's own words must do there.
    """
    kind = _declared(error)
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    plain = [option for option in options if option is not type(None)]
    if len(plain) != 1 or (words := _words(plain[0])) is None:
        return None
    if len(plain) == len(options):
        return f"must be {words}"
    return f"must be {words}{', or' if ',' in words or ' or ' in words else ' or'} null"


def _declared(error: BaseException) -> Any:
    """Returns the type that the setting of an error is declared with, None where none is known."""
    holder, key = getattr(error, "object_type", None), getattr(error, "key", None)
    if dataclasses.is_dataclass(holder):
        return get_type_hints(holder).get(str(key))
    # `rates.rte.lora`, in a dict[str, float].
    within = get_args(getattr(error, "ref_type", None)) if holder is dict else ()
    return within[1] if len(within) == 2 else None


def _words(kind: Any) -> str | None:
    """Returns a plain type, or a list of one, in words; None for any other."""
    if get_origin(kind) is list:
        items = _WORDS.get(get_args(kind)[0])
        return None if items is None else f"a list of {items[1]}"
    found = _WORDS.get(kind)
    return None if found is None else found[0]
