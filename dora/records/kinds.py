"""Kinds of values that a record may hold: what each is in words, and whether a value is of it."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

Tree = dict[str, tuple[frozenset[type], "Kind", Any]]
_LARGEST = 1 << 63


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    `words`: what it is. `fits`: whether a value is of it. `of`: the kind of all that such a value holds, if any.
    `sure`: the types whose every value fits, and needs no look inside; most values of a record are of one.
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
        """What is wrong with the value at a path, None where it is of this kind."""
        if not self.fits(value):
            return f"{at} is {value!r:.60}, which must be {self.words}"
        if self.of is None or self.of.all_fit(value.values() if isinstance(value, dict) else value):
            return None
        held = value.items() if isinstance(value, dict) else enumerate(value)
        return next(
            (text for key, one in held if (text := self.of.problem(f"{at}.{key}", one))), None
        )

    def all_fit(self, values: Iterable[Any]) -> bool:
        """Whether each of the values is of this kind, all that it holds included."""
        if self.sure.issuperset(map(type, values)):
            return True
        if self is WHOLE and {int}.issuperset(map(type, values)):
            return 0 <= min(values) and max(values) < _LARGEST
        return all(map(self.fits, values)) and (self.of is None or all(map(self._inside, values)))

    def _inside(self, value: Any) -> bool:
        assert self.of is not None
        return self.of.all_fit(value.values() if isinstance(value, dict) else value)


def tree(kinds: Mapping[str, Kind]) -> Tree:
    """The kinds by the first part of their dotted paths, so that a record is gone through once."""
    found: Tree = {path: (kind.sure, kind, {}) for path, kind in kinds.items() if "." not in path}
    for first, (sure, kind, _) in found.items():
        inside = {p.partition(".")[2]: k for p, k in kinds.items() if p.startswith(f"{first}.")}
        found[first] = (sure, kind, tree(inside))
    return found


def wrong(record: Mapping[str, Any], known: Tree, at: str = "") -> Iterator[str]:
    """Says of every value under a known key that is not of its kind what it must be."""
    for key, value in record.items():
        if key in known:
            sure, kind, inside = known[key]
            if type(value) in sure or (
                kind is WHOLE and type(value) is int and 0 <= value < _LARGEST
            ):
                continue  # as nearly always
            if (problem := kind.problem(f"{at}{key}", value)) is not None:
                yield problem
            elif inside:
                yield from wrong(value, inside, f"{at}{key}.")


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < (
        math.inf if type(value) is float else _LARGEST
    )


def _time(value: Any) -> bool:
    try:
        return datetime.datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _list(value: Any) -> bool:
    return isinstance(value, list)


def _plain(value: Any) -> bool:
    """Whether it is one setting: nothing, a word, a number, or a list of these."""
    if isinstance(value, list):
        return all(isinstance(one, str) or _number(one) for one in value)
    return value is None or isinstance(value, str | bool) or _number(value)


def _setting(value: Any) -> bool:
    """Whether it is a setting, or the settings of a method."""
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
    """One of some words."""
    known = frozenset(values)
    return Kind(
        f"one of {', '.join(values)}", lambda value: isinstance(value, str) and value in known
    )


def objects(words: str, of: Kind) -> Kind:
    """An object whose values are of one kind."""
    return Kind(words, _object, of)


def lists(words: str, of: Kind) -> Kind:
    """A list whose values are of one kind."""
    return Kind(words, _list, of)


def with_keys(words: str, *keys: str) -> Kind:
    """An object that has these keys."""
    return Kind(words, lambda value: isinstance(value, dict) and value.keys() >= set(keys))
