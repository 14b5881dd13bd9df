"""Conflicts that keep finished runs from being compared.

A cell may hold several configurations or arithmetics; a model's name may stand for several sets of
weights, and a data source's for several sets of rows.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from dora.analysis.settings import in_words, settings
from dora.plain import dotted, printable
from dora.records import packed
from dora.records.identity import NOT_IDENTITY
from dora.records.place import place_of
from dora.records.schema import Run

ABSENT = "–"  # stands for a setting that a run does not have
_LENGTH = {"max_steps", "epochs"}  # the settings that say how long a run is


def one_configuration(
    runs: Sequence[Run], mix: bool = False, scope: str = ""
) -> tuple[list[Run], str | None]:
    """Returns the runs of a cell that a table can show, and the problem where it can show none.

    Several configurations are such a problem. With `mix`, runs that differ in their arithmetic
    alone are shown together; where a seed occurs twice, the newer run counts. `scope`: this cell's
    names in a choice (`rte:dora:r8`), so that the choice in the problem leaves other cells alone.
    """
    scope = f"{scope}:" if scope else ""
    # The key is a hash of the configuration, so that no record has to be compared. Not the whole
    # path: some of a cell's seeds may be packed, and others lie in directories.
    keys = [(place_of(run["folder"]).key, run["arithmetic"]) for run in runs]
    kinds = dict(zip(keys, runs, strict=True))
    if len(kinds) == 1:
        return list(runs), None
    folders = [packed.shown(run["folder"].parent) for run in kinds.values()]
    differing = _differing_settings(list(kinds.values()))
    if set(differing) != {"arithmetic"} or len(set(differing["arithmetic"])) < len(kinds):
        numbers = list(Counter(keys).values())
        return [], _several_configurations(folders, differing, numbers.index(max(numbers)), scope)
    if mix:
        newest = {run["seed"]: run for run in sorted(runs, key=itemgetter("arithmetic"))}
        return [newest[seed] for seed in sorted(newest)], None
    # The suite's arithmetic is all that differs, so the way out is not the general one.
    numbers = differing["arithmetic"]
    choice = shlex.quote(printable(f"{scope}arithmetic={max(numbers)}"))
    where = " | ".join(f"{n} in {folder}" for n, folder in zip(numbers, folders, strict=True))
    return [], (
        f"one cell holds runs of {len(kinds)} arithmetics of this package, which give one "
        f"configuration other bits: {where}: a table compares one; choose it by --where "
        f"{choice}, or take all by --mix-arithmetic (of a seed that is there twice, the newer)"
    )


def _differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Returns setting → its value in each run, for settings of a run's identity that differ.

    A run that lacks a setting has ABSENT there.
    """
    newest = max(run["arithmetic"] for run in runs)
    known = [settings(run) | dotted({"fingerprints": run["fingerprints"]}) for run in runs]
    keys = sorted({key for one in known for key in one if key.split(".")[0] not in NOT_IDENTITY})
    found = {}
    for key in keys:
        # A setting that records of an earlier arithmetic lack did not exist then: no difference.
        counted = [one for one in known if key in one or one["arithmetic"] == newest]
        # As JSON, because lists cannot be in a set.
        if len({json.dumps(one.get(key, ABSENT)) for one in counted}) > 1:
            found[key] = [one.get(key, ABSENT) for one in known]
    return found


def _several_configurations(
    folders: Sequence[str], differing: Mapping[str, list[Any]], largest: int, scope: str
) -> str:
    """Returns the message for a cell of several configurations.

    It shows how to choose the one in the `largest`-th of `folders`, which has most runs, by keys
    behind `scope`.
    """
    words = {key: list(map(in_words, values)) for key, values in differing.items()}
    named = [f"{key} {' | '.join(values)}" for key, values in words.items()]
    # Nobody can type a fingerprint, nor that a setting is absent.
    typed = {
        key: values
        for key, values in words.items()
        if not key.startswith("fingerprints.") and differing[key][largest] != ABSENT
    }
    # One setting that no other configuration shares, preferably the length or the rate, or else all
    # together. A length is chosen for all cells, since methods are compared at equal ones.
    alone = [key for key, values in typed.items() if values.count(values[largest]) == 1]
    keys = sorted(alone, key=lambda key: (key not in _LENGTH, key != "lr"))[:1] or list(typed)
    scope = "" if _LENGTH & set(keys[:1]) else scope
    choice = shlex.join(printable(f"{scope}{key}={typed[key][largest]}") for key in keys)
    ways = [f"choose it, as by --where {choice}"] if choice else []
    ways += ["show each length by --by-length"] if _LENGTH & set(words) else []
    return (
        f"one cell holds {len(folders)} configurations: {' | '.join(folders)}, which differ in "
        f"{'; '.join(named) or 'nothing that run.json says'}: a table compares one; "
        f"{', '.join(ways)}{', or ' if ways else ''}move the others away"
    )


def other_weights(runs: Iterable[Run], model: str) -> str | None:
    """Returns the problem where runs have backbones of one name with other weights."""
    way_out = "train them again with a model.name= of their own"
    return _unlike(runs, "model", f"the weights of model {model}", way_out)


def other_rows(runs: Iterable[Run], task: str, data: str) -> str | None:
    """Returns the problem where a task has other rows under one name of their source."""
    return _unlike(
        runs, "data", f"{task}'s rows of data {data}", "train them again on the same rows"
    )


def _unlike(runs: Iterable[Run], key: str, what: str, way_out: str) -> str | None:
    """Returns the problem with fingerprints that differ, None where all are equal.

    It names the folders of all runs but those with the most frequent fingerprint.
    """
    folders: dict[str, list[Path]] = {}
    for run in runs:
        if mark := run["fingerprints"].get(key):
            folders.setdefault(mark, []).append(run["folder"].parent)
    if len(folders) < 2:
        return None
    (most, _), *others = sorted(folders.items(), key=lambda item: -len(item[1]))
    named = [
        f"{mark[:8]} in {', '.join(map(packed.shown, dict.fromkeys(members)))}"
        for mark, members in others
    ]
    return (
        f"{what} are not the same in all runs (fingerprints.{key}: {'; '.join(named)}; "
        f"{most[:8]} in the rest): a table compares methods on the same ones; "
        f"move these runs away, or {way_out}"
    )
