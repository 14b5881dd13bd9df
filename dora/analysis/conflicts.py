"""What keeps finished runs from being compared.

Several configurations or arithmetics in one cell, other weights or rows under one name.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dora.plain import printable
from dora.records.record import NOT_IDENTITY, arithmetic
from dora.records.schema import Run


def settings(run: Run) -> dict[str, Any]:
    """The configuration under dotted keys (`method.alpha`), and the number of the arithmetic."""
    return {**_flat(run["config"]), "arithmetic": arithmetic(run)}


def one_configuration(runs: Sequence[Run], mix: bool = False) -> tuple[list[Run], str | None]:
    """Returns the runs of a cell that a table can show, and why it can show none.

    It can show none where they are of several configurations. Runs that differ in their arithmetic alone are
    taken together if `mix`: of a seed that is there twice, the newer.
    """
    kinds = {(run["folder"].parent, arithmetic(run)): run for run in runs}
    if len(kinds) == 1:
        return list(runs), None
    folders = [str(folder) for folder, _ in kinds]
    differing = _differing_settings(list(kinds.values()))
    if set(differing) != {"arithmetic"} or len(set(differing["arithmetic"])) < len(kinds):
        numbers = [sum(run["folder"].parent == folder for run in runs) for folder, _ in kinds]
        return [], _several_configurations(folders, differing, numbers.index(max(numbers)))
    if mix:
        newest = {run["seed"]: run for run in sorted(runs, key=arithmetic)}
        return [newest[seed] for seed in sorted(newest)], None
    numbers = differing["arithmetic"]
    where = " | ".join(f"{n} in {folder}" for n, folder in zip(numbers, folders, strict=True))
    return [], (
        f"one cell holds runs of {len(kinds)} arithmetics of this package, which give one configuration other "
        f"bits: {where}: a table compares one; choose it by --where arithmetic={max(numbers)}, or take all by "
        "--mix-arithmetic (of a seed that is there twice, the newer)"
    )


def _differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Setting → its value in each run, of those that belong to a run's identity and differ.

    A setting that records of an earlier arithmetic lack did not exist then, which is no difference.
    """
    newest = max(map(arithmetic, runs))
    known = [
        {**settings(run), **_flat(run.get("fingerprints", {}), "fingerprints.")} for run in runs
    ]
    keys = sorted({key for one in known for key in one if key.split(".")[0] not in NOT_IDENTITY})
    values = {
        key: [one.get(key) for one in known if key in one or one["arithmetic"] == newest]
        for key in keys
    }
    return {key: found for key, found in values.items() if len(set(map(json.dumps, found))) > 1}


def _several_configurations(
    folders: Sequence[str], differing: Mapping[str, list[Any]], largest: int
) -> str:
    """The message for a cell of several configurations; it shows how to choose the `largest`-th of `folders`."""
    words = {key: list(map(in_words, values)) for key, values in differing.items()}
    named = [f"{key} {' | '.join(values)}" for key, values in words.items()]
    typed = {key: values for key, values in words.items() if not key.startswith("fingerprints.")}
    # One setting that no other configuration shares, the rate first, or else all of them together.
    alone = [key for key, values in typed.items() if values.count(values[largest]) == 1]
    keys = sorted(alone, key=lambda key: key != "lr")[:1] or list(typed)
    choice = shlex.join(printable(f"{key}={typed[key][largest]}") for key in keys)
    return (
        f"one cell holds {len(folders)} configurations: {' | '.join(folders)}, which differ in "
        f"{'; '.join(named) or 'nothing that run.json says'}: a table compares one; "
        f"{f'choose it, as by --where {choice}, or ' if choice else ''}move the others away"
    )


def in_words(value: Any) -> str:
    """A setting as it is typed: `0.002`, `q+v`, `null`."""
    if isinstance(value, list):
        return "+".join(map(in_words, value))
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def other_weights(runs: Iterable[Run], model: str) -> str | None:
    """What is wrong where the backbones of runs share a name and nothing else."""
    way_out = "train them again with a model.name= of their own"
    return _unlike(runs, "model", f"the weights of model {model}", way_out)


def other_rows(runs: Iterable[Run], task: str, data: str) -> str | None:
    """What is wrong where the rows of a task share the name of their source and nothing else."""
    return _unlike(
        runs, "data", f"{task}'s rows of data {data}", "train them again on the same rows"
    )


def _unlike(runs: Iterable[Run], key: str, what: str, way_out: str) -> str | None:
    """The problem, if any: fingerprints that differ, the folders of all but the most frequent one by name."""
    folders: dict[str, list[Path]] = {}
    for run in runs:
        if mark := run["fingerprints"].get(key):
            folders.setdefault(mark, []).append(run["folder"].parent)
    if len(folders) < 2:
        return None
    (most, _), *others = sorted(folders.items(), key=lambda item: -len(item[1]))
    named = [
        f"{mark[:8]} in {', '.join(map(str, dict.fromkeys(members)))}" for mark, members in others
    ]
    return (
        f"{what} are not the same in all runs (fingerprints.{key}: {'; '.join(named)}; {most[:8]} in the rest): "
        f"a table compares methods on the same ones; move these runs away, or {way_out}"
    )


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat
