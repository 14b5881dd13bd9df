"""Shows values: escapes, counted things, lists of names, durations, dotted keys.

Tells whole numbers from others.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any


def printable(text: object, kept: str = "") -> str:
    r"""Replaces every character that does not print by an escape such as `\x1b`, `\n` or `\u202e`.

    The characters in `kept` stay as they are, and so do spaces of other scripts, which folders'
    names have. A terminal obeys control characters, and marks of text direction make a command look
    like another one.
    """
    whole = str(text)
    # Fast for nearly every text: a table of runs shows a hundred for each run.
    if whole.isprintable():
        return whole
    return "".join(c if _prints(c) or c in kept else _escape(c) for c in whole)


def cut(text: object) -> str:
    """Returns `printable(text)`, with an ellipsis for everything after 100 characters."""
    whole = str(text)
    # Cut before escaping, so that the cut never falls inside an escape.
    shown = printable(whole[:100])
    return f"{shown}…" if len(whole) > 100 else shown


def counted(number: int, noun: str) -> str:
    """Returns `1 run` or `1,040 runs`, for a noun whose plural ends in s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def first_few(names: Sequence[str], at_most: int = 3) -> str:
    """Joins the first names with commas, and says how many more there are."""
    more = f" and {len(names) - at_most:,} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def number_range(numbers: Collection[int]) -> str:
    """Returns `1,200`, or `1,200 to 2,000` where the numbers differ."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def duration(seconds: float) -> str:
    """Returns a duration as `2 h 05 min`, `12 min` or `40 s`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def is_whole(value: object, low: int, high: float = math.inf) -> bool:
    """Tells whether a value is a whole number from `low` to `high`."""
    # JSON's true is an int to Python.
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def dotted(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested settings under dotted keys, such as `method.alpha`."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": held for inner, held in dotted(value).items()}
        else:
            flat[key] = value
    return flat


def with_commas(value: Any) -> Any:
    """Returns a list of values as one text, with commas; any other value as it is."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def _prints(character: str) -> bool:
    # Python calls no space printable but the one of ASCII.
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    # Pure ASCII, so that no encoding of a stream can refuse it, not even for a lone surrogate.
    return character.encode("unicode_escape").decode("ascii")
