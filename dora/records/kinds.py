"""Kinds of values that a record may hold: each has words for messages, and a test for values.

The tables read every record of a study, thousands of them, so the tests are written for speed: one
pass over the record, and set operations on types instead of a call for each of its values.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

Tree = dict[str, tuple[frozenset[type], "Kind", Any]]
_LARGEST = 1 << 63  # NumPy, safetensors and every file system count in 64 bits


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    `words`: its name in messages. `fits`: tells whether a value is of this kind. `of`: the kind of
    everything inside such a value, if it holds any. `sure`: the types whose every value fits
    without a look inside; most values of a record are of one.
    """

    words: str
    fits: Callable[[Any], bool]
    of: Kind | None = None
    sure: frozenset[type] = frozenset()

    def __or__(self, other: None) -> Kind:
        def fits(value: Any) -> bool:
            return value is None or self.fits(value)

        return Kind(f"{self.words} or null", fits, self.of, self.sure | {NoneType})

    def problem(self, at: str, value: Any) -> str | None:
        """Returns the problem of the value at the path `at`, or None where it is of this kind."""
        if not self.fits(value):
            return f"{at} is {value!r:.60}, which must be {self.words}"
        if self.of is None or self.of.all_fit(value.values() if isinstance(value, dict) else value):
            return None
        # Something inside does not fit: only now is it worth the time to find out where.
        held = value.items() if isinstance(value, dict) else enumerate(value)
        return next(
            (text for key, one in held if (text := self.of.problem(f"{at}.{key}", one))), None
        )

    def all_fit(self, values: Iterable[Any]) -> bool:
        """Tells whether every value, with everything inside it, is of this kind."""
        # The set of the values' types is built without a Python call for each value.
        if self.sure.issuperset(map(type, values)):
            return True
        # Ranks are the bulk of a record, 144 whole numbers and more: two passes in C.
        if self is WHOLE and {int}.issuperset(map(type, values)):
            return 0 <= min(values) and max(values) < _LARGEST
        return all(map(self.fits, values)) and (self.of is None or all(map(self._inside, values)))

    def _inside(self, value: Any) -> bool:
        assert self.of is not None
        return self.of.all_fit(value.values() if isinstance(value, dict) else value)


def tree(kinds: Mapping[str, Kind]) -> Tree:
    """Returns the kinds by the first part of their dotted paths, and so on inside each.

    In this form a record is checked in one pass over its own keys.
    """
    found: Tree = {path: (kind.sure, kind, {}) for path, kind in kinds.items() if "." not in path}
    for first, (sure, kind, _) in found.items():
        inside = {p.partition(".")[2]: k for p, k in kinds.items() if p.startswith(f"{first}.")}
        found[first] = (sure, kind, tree(inside))
    return found


def wrong(record: Mapping[str, Any], known: Tree, at: str = "") -> Iterator[str]:
    """Yields a problem for every value under a known key that is not of its kind."""
    for key, value in record.items():
        if key in known:
            sure, kind, inside = known[key]
            # Nearly every value of a sound record ends here, without a call.
            if type(value) in sure or (
                kind is WHOLE and type(value) is int and 0 <= value < _LARGEST
            ):
                continue
            if (problem := kind.problem(f"{at}{key}", value)) is not None:
                yield problem
            elif inside:
                yield from wrong(value, inside, f"{at}{key}.")


# `type(value) is int` and not isinstance: JSON's true is an int to Python.
def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _number(value: Any) -> bool:
    # `abs(NaN) < inf` is false, so NaN does not fit either.
    if type(value) is float:
        return abs(value) < math.inf
    return type(value) is int and abs(value) < _LARGEST


def _time(value: Any) -> bool:
    try:
        # A time without a zone cannot be subtracted from one with a zone.
        return datetime.datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _list(value: Any) -> bool:
    return isinstance(value, list)


def _plain(value: Any) -> bool:
    """Tells whether a value is one setting: null, a word, a number, or a list of such."""
    if isinstance(value, list):
        return all(isinstance(one, str) or _number(one) for one in value)
    return value is None or isinstance(value, str | bool) or _number(value)


def _setting(value: Any) -> bool:
    """Tells whether a value is one setting, or an object of the settings of a method."""
    return all(map(_plain, value.values())) if isinstance(value, dict) else _plain(value)


TEXT = Kind("a text", lambda value: isinstance(value, str), sure=frozenset({str}))
YES_NO = Kind("true or false", lambda value: isinstance(value, bool), sure=frozenset({bool}))
WHOLE = Kind("a whole number from 0", _whole)
NUMBER = Kind("a finite number", _number)
TIME = Kind("a time as in 2026-01-31T12:00:00+00:00", _time)
SETTING = Kind("a setting", _setting, sure=frozenset({str, bool, NoneType}))
OBJECT = Kind("an object", _object)
COUNTS = Kind("an object of whole numbers", _object, WHOLE)
TEXTS = Kind("a list of texts", _list, TEXT)


def one_of(values: Iterable[str]) -> Kind:
    """Returns the kind of a text that is one of `values`."""
    known = frozenset(values)
    return Kind(
        f"one of {', '.join(values)}", lambda value: isinstance(value, str) and value in known
    )


def objects(words: str, of: Kind) -> Kind:
    """Returns the kind of an object whose values are all of the kind `of`."""
    return Kind(words, _object, of)


def lists(words: str, of: Kind) -> Kind:
    """Returns the kind of a list whose values are all of the kind `of`."""
    return Kind(words, _list, of)


def with_keys(words: str, *keys: str) -> Kind:
    """Returns the kind of an object that has at least these keys."""
    return Kind(words, lambda value: isinstance(value, dict) and value.keys() >= set(keys))
