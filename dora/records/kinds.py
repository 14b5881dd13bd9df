"""Kinds of values that a record may hold: each has words for messages, and a test for values."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dora.plain import is_whole

_LARGEST = (1 << 63) - 1  # NumPy, safetensors and every file system count in 64 bits


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    `words`: its name in messages. `fits`: tells whether a value is of this kind. `of`: the kind of
    everything inside such a value, if it holds any. `needed`: a finished run's record has the key.
    """

    words: str
    fits: Callable[[Any], bool]
    of: Kind | None = None
    needed: bool = False

    @property
    def always(self) -> Kind:
        """Returns this kind for a key that the record of every finished run has."""
        return replace(self, needed=True)

    def __or__(self, other: None) -> Kind:
        return Kind(f"{self.words} or null", lambda v: v is None or self.fits(v), self.of)

    def problem(self, value: Any) -> str | None:
        """Returns ` is 7, which must be a text`, None where the value is of this kind.

        For a value inside this one, its key comes first: `.torch is 7, which must be a text`.
        """
        if not self.fits(value):
            return f" is {value!r:.60}, which must be {self.words}"
        if self.of is None or value is None:
            return None
        held = value.items() if isinstance(value, dict) else enumerate(value)
        return next((f".{key}{text}" for key, one in held if (text := self.of.problem(one))), None)


def wrong(record: Mapping[str, Any], known: Mapping[str, Kind], at: str = "") -> Iterator[str]:
    """Yields a problem for every value under a known path that is not of its kind.

    `known`: the kinds by dotted path. `at`: the path of `record` itself, with a dot behind it.
    """
    for key, value in record.items():
        path = f"{at}{key}"
        if path in known:
            if (problem := known[path].problem(value)) is not None:
                yield f"{path}{problem}"
            elif isinstance(value, dict):
                yield from wrong(value, known, f"{path}.")


def _number(value: Any) -> bool:
    # `abs(NaN) < inf` is false, so NaN does not fit either.
    if type(value) is float:
        return abs(value) < math.inf
    return is_whole(value, -_LARGEST, _LARGEST)


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


TEXT = Kind("a text", lambda value: isinstance(value, str))
YES_NO = Kind("true or false", lambda value: isinstance(value, bool))
WHOLE = Kind("a whole number from 0", lambda value: is_whole(value, 0, _LARGEST))
NUMBER = Kind("a finite number", _number)
TIME = Kind("a time as in 2026-01-31T12:00:00+00:00", _time)
SETTING = Kind("a setting", _setting)
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
