"""Choosing finished runs by their settings: `lr=2e-3`, `method.alpha=16`, `seed=1`."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dora.adapters.budget import Budget
from dora.analysis.conflicts import in_words, settings
from dora.errors import UserError
from dora.records.schema import Run


def chosen(runs: Sequence[Run], words: Sequence[str]) -> list[Run]:
    """Returns the runs that have every setting of `words` (KEY=VALUE).

    Keys are those of run.json's configuration (`method` stands for `method.name`) and `arithmetic`.
    A key that is given again accepts any of its values. Numbers are compared as numbers, budgets as
    budgets. Raises UserError for a key or a value that no run has, and where no run is left.
    """
    if not words or not runs:
        return list(runs)
    known = [settings(run) for run in runs]
    asked: dict[str, list[str]] = {}
    # All mistakes at once: a command line is often wrong in more than one word.
    wrong = []
    for word in words:
        given, equals, value = word.partition("=")
        # `method` is a group of settings; what people type of a group is its name.
        key = given if any(given in one for one in known) else f"{given}.name"
        asked.setdefault(key, []).append(value)
        if not equals:
            wrong.append(f"--where {word} must be KEY=VALUE, as lr=2e-3")
        elif not any(key in one for one in known):
            there = ", ".join(sorted({key for one in known for key in one}))
            wrong.append(
                f"--where {word}: no finished run has a setting {given}; there are {there}"
            )
        elif not any(key in one and same(key, one[key], value) for one in known):
            there = ", ".join(
                sorted({in_words(one[key]) for one in known if key in one}, key=_by_size)
            )
            wrong.append(f"--where {word}: no finished run has it; there {given} is {there}")
    if wrong:
        raise UserError(*wrong)
    left = [run for run, one in zip(runs, known, strict=True) if _fits(one, asked)]
    # Each setting occurs, but not together.
    if not left:
        raise UserError(f"no finished run has {' and '.join(words)} at once")
    return left


def _fits(known: Mapping[str, Any], asked: Mapping[str, Sequence[str]]) -> bool:
    """Returns whether settings have, for each key that was asked for, one of its values."""
    for key, values in asked.items():
        if key not in known or not any(same(key, known[key], v) for v in values):
            return False
    return True


def same(key: str, value: Any, text: str) -> bool:
    """Returns whether a setting of a run equals what was typed."""
    if value is None or isinstance(value, bool):
        return (
            text.lower() in {None: ("null", "none", ""), True: ("true",), False: ("false",)}[value]
        )
    # target=q+v, target=q,v and target=[q,v] are one target.
    if isinstance(value, list):
        return [str(v) for v in value] == re.split(r"[+,]\s*", text.strip("[]"))
    # 0.3M and 300k are one budget. A text that is none is compared as any other below.
    if key == "budget":
        with contextlib.suppress(ValueError):
            return str(Budget.parse(str(value))) == str(Budget.parse(text))
    with contextlib.suppress(ValueError):
        return math.isclose(float(value), float(text), rel_tol=1e-9)
    return str(value) == text


def short(words: Sequence[str]) -> list[str]:
    """Returns the words as captions and file names have them, sorted.

    Numbers have one spelling, so that `lr=2e-3` and `lr=0.002` write the same file.
    """

    def spelled(word: str) -> str:
        """Returns a word with its number in one spelling."""
        key, _, value = word.partition("=")
        with contextlib.suppress(ValueError):
            value = in_words(float(value))
        return f"{key}={value}"

    return sorted(map(spelled, words))


def _by_size(text: str) -> tuple[float, str]:
    """Returns a key that sorts numbers before words, the smaller first."""
    try:
        return float(text), text
    except ValueError:
        return math.inf, text
