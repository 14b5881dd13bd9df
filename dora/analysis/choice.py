"""Choosing finished runs, as command lines do: by their settings, or by tasks and methods.

`--where lr=2e-3 rte:dora:lr=1e-3` asks for settings, `--tasks rte,mrpc --methods lora,dora` for names.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dora.adapters.budget import Budget
from dora.analysis.settings import in_words, settings
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.records.place import place_of
from dora.records.schema import Run

# A condition: (names that a run's place must all have for it to be asked, the key of the setting).
_Asked = tuple[frozenset[str], str]


def named(
    tasks: Sequence[str], methods: Sequence[str], runs: Sequence[Run]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Reads the words of --tasks and --methods: returns the names of the tasks and of the methods.

    A word holds names or titles in any case, with commas between: `RTE,mrpc`. Tasks are in GLUE's
    order. Raises UserError with every name that no run has.
    """
    there = {run["config"]["task"] for run in runs}
    # Every record has its method's title, so one record a method is enough.
    one_each = {run["config"]["method"]["name"]: run for run in runs}
    options = (
        ("--tasks", tasks, {name: TASKS[name].folder for name in TASKS if name in there}),
        ("--methods", methods, {m: one_each[m]["method"]["title"] for m in sorted(one_each)}),
    )
    wrong, found = [], []
    for option, words, titles in options:
        known: dict[str, set[str]] = {}
        for name, title in titles.items():
            known.setdefault(title.lower(), set()).add(name)
        # A name means itself alone, though it may be another method's title, too.
        known |= {name.lower(): {name} for name in titles}
        # `rte, mrpc` is two words, the first with an empty part.
        parts = [part.strip().lower() for word in words for part in word.split(",")]
        asked = [part for part in parts if part] or parts
        names = ", ".join(titles)
        wrong += [
            f"{option} {part}: no finished run has it; there are {names}"
            for part in asked
            if part not in known
        ]
        chosen = {name for part in asked for name in known.get(part, ())}
        found.append(tuple(name for name in titles if name in chosen))
    if wrong:
        raise UserError(*wrong)
    return found[0], found[1]


def chosen(runs: Sequence[Run], words: Sequence[str]) -> list[Run]:
    """Returns the runs that have every setting of `words`, each KEY=VALUE or SCOPE:KEY=VALUE.

    Keys are those of run.json's configuration (`method` stands for `method.name`) and `arithmetic`.
    A key that is given again accepts any of its values. Numbers are compared as numbers, budgets as
    budgets. A scope is names of a task, a method, a budget, a model or a data source, with colons
    between (`rte:dora:r8`; no key has a colon): the setting is asked of its runs alone, and all
    others stay. Raises UserError for a scope, a key or a value that no run has, and where no run is
    left in all or in a scope.
    """
    if not words or not runs:
        return list(runs)
    known = [settings(run) for run in runs]
    names = [_names(run) for run in runs]
    asked: dict[_Asked, list[str]] = {}
    # All mistakes at once: a command line is often wrong in more than one word.
    wrong = []
    for word in words:
        before, equals, value = word.partition("=")
        *parts, given = before.split(":")
        scope = frozenset(map(_as_named, parts))
        inside = [one for one, its in zip(known, names, strict=True) if scope <= its]
        # `method` is a group of settings; what people type of a group is its name.
        key = given if any(given in one for one in inside) else f"{given}.name"
        asked.setdefault((scope, key), []).append(value)
        if not equals:
            wrong.append(f"--where {word} must be KEY=VALUE, as lr=2e-3")
        elif not inside:
            there = ", ".join(sorted(set().union(*names)))
            wrong.append(
                f"--where {word}: no finished run is of {':'.join(parts)}; there are {there}"
            )
        else:
            wrong += _mistakes(word, given, key, value, inside)
    if wrong:
        raise UserError(*wrong)
    kept = [_fits(one, its, asked) for one, its in zip(known, names, strict=True)]
    left = [its for its, fits in zip(names, kept, strict=True) if fits]
    # Each setting occurs, but not together: nothing is left of all runs, or of a scope.
    scopes = {frozenset[str](), *(scope for scope, _ in asked)}
    if not all(any(scope <= its for its in left) for scope in scopes):
        raise UserError(f"no finished run has {' and '.join(words)} at once")
    return [run for run, fits in zip(runs, kept, strict=True) if fits]


def _mistakes(
    word: str, given: str, key: str, value: str, known: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Returns why no run can have the setting that a word asks for; empty where one has it."""
    values = [one[key] for one in known if key in one]
    if not values:
        there = ", ".join(sorted({key for one in known for key in one}))
        return [f"--where {word}: no finished run has a setting {given}; there are {there}"]
    if not any(same(key, its, value) for its in values):
        there = ", ".join(sorted(set(map(in_words, values)), key=_by_size))
        return [f"--where {word}: no finished run has it; there {given} is {there}"]
    return []


def _names(run: Run) -> frozenset[str]:
    """Returns the names by which a scope finds a run."""
    place = place_of(run["folder"])
    return frozenset((place.data, place.task, place.model, place.method, place.budget))


def _as_named(part: str) -> str:
    """Returns a part of a scope as a run's folders have it: `300000` for `0.3M`."""
    with contextlib.suppress(ValueError):
        return str(Budget.parse(part))
    return part


def _fits(
    known: Mapping[str, Any], names: frozenset[str], asked: Mapping[_Asked, Sequence[str]]
) -> bool:
    """Returns whether a run has one of the accepted values for each key that is asked of it.

    `known`, `names`: the run's settings, and the names that a scope finds it by.
    """
    for (scope, key), values in asked.items():
        has = key in known and any(same(key, known[key], v) for v in values)
        if scope <= names and not has:
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
