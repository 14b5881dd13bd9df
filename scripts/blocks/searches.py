"""Searches of learning rates as their runs make them: not every folder has a file of its search."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dora.analysis.searches import heldout, heldout_loss, in_order
from dora.configuration import search_file
from dora.configuration.search_file import BySeed, Key, Search, Value
from dora.records.place import place_of
from dora.records.schema import Run


def of_runs(runs: Iterable[Run]) -> list[Search]:
    """Returns the searches that finished runs with select=heldout make, in the order of tables."""
    found: dict[Key, list[Run]] = defaultdict(list)
    for run in runs:
        c = run["config"]
        if c["select"] == "heldout":
            place, method = place_of(run["folder"]), c["method"]["name"]
            length = search_file.length(c)
            key = Key(place.model, c["task"], method, c["budget"], length, place.data)
            found[key].append(run)
    return in_order(_of_key(key, its) for key, its in found.items())


def _of_key(key: Key, runs: Sequence[Run]) -> Search:
    """Returns the search that the runs of one method on one task at one budget make."""
    setting, default = _setting(runs)
    scores: dict[float, dict[int, float | None]] = defaultdict(dict)
    losses: dict[float, dict[int, float | None]] = defaultdict(dict)
    values: dict[tuple[float, Value], dict[int, float | None]] = defaultdict(dict)
    for run in runs:
        value = run["config"]["method"].get(setting)
        lr, seed = run["config"]["lr"], run["seed"]
        if value == default:
            scores[lr][seed] = heldout(run)
            losses[lr][seed] = heldout_loss(run, run["folder"])
        else:
            values[lr, value][seed] = heldout(run)
    # A candidate that lacks a seed would be compared by other seeds than the rest.
    seeds = tuple(sorted({run["seed"] for run in runs}))
    rates = Search(
        key,
        seeds,
        _by_seed(scores, seeds),
        setting=setting,
        default=default,
        losses=_by_seed(losses, seeds),
    )
    # A search that went on to a better rate tried them at an earlier one too.
    at_best = {value: its for (lr, value), its in sorted(values.items()) if lr == rates.lr}
    return replace(rates, values=_by_seed(at_best, seeds))


def _by_seed(
    numbers: Mapping[Any, Mapping[int, float | None]], seeds: Sequence[int]
) -> dict[Any, BySeed]:
    """Returns the numbers of each candidate in the order of `seeds`."""
    return {candidate: tuple(by.get(seed) for seed in seeds) for candidate, by in numbers.items()}


def _setting(runs: Sequence[Run]) -> tuple[str | None, Any]:
    """Returns the setting of the method's own that differs among runs, and its default.

    The default is the value with most rates: the others were tried at the best rate alone.
    (None, None) if all runs have the same settings.
    """
    methods = [run["config"]["method"] for run in runs]
    for name in methods[0]:
        rates = defaultdict(set)
        for run in runs:
            rates[run["config"]["method"].get(name)].add(run["config"]["lr"])
        if len(rates) > 1:
            return name, max(rates, key=lambda value: len(rates[value]))
    return None, None
