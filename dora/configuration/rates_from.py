"""The search that chose a run's learning rate, and the run as the search would have it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dora.configuration import search_file
from dora.configuration.config import Config
from dora.configuration.method_class import fingerprint
from dora.configuration.neutral import NEUTRAL
from dora.configuration.search_file import Search
from dora.errors import UserError

# The keys in which the runs of a search, and a study's runs beside it, may differ: those that name
# the search, those that it sets, and those that do not decide which rate is best.
_NOT_OF_A_SEARCH = (
    *("task", "model", "data", "budget", "max_steps", "epochs"),
    *("lr", "seed", "select", "results"),
    *(*NEUTRAL, "precision", "threads"),
)
# Stands for the code of a method of one's own, and tells it from an edited one's.
METHOD_FILE = "the method's file"


def search_of(config: Config) -> Search | None:
    """Returns the search in `rates_from` for this run; None if `lr` is given, or neither is.

    A search of another length or other data will do if it is the only one. Raises UserError
    where the file cannot be read, has no search for this run, or one in which every rate
    diverged.
    """
    file = config.rates_from or ""
    # `check` reports a path that names nothing.
    if config.lr is not None or not file.strip():
        return None
    key = config.search_key
    run = f"model={key.model}, task={key.task}, method={key.method}" + (
        f", budget={key.budget}" if key.budget else ""
    )
    searches = search_file.read(Path(file))
    found = search_file.found(searches, key)
    if found is None:
        others = [search.key.where for search in search_file.of_cell(searches, key)]
        at = f" at {key.where}, only at {' and '.join(others)}" if others else ""
        raise UserError(
            f"rates_from={config.rates_from} has no rate for {run}{at}: python -m dora.tune "
            "searches one, or give lr="
        )
    if found.all_failed:
        raise UserError(
            f"rates_from={config.rates_from}: {run} diverged at every rate that was tried, from "
            f"{min(found.scores):g} to {max(found.scores):g}; give lr="
        )
    return found


def as_tuned(config: Config, found: Search, typed: Sequence[str] = ()) -> Config:
    """Returns the configuration with the rate, and the method's setting, that `found` chose.

    `found`: what `search_of` returned. The file may change, or go, while the run trains, so that
    it is never asked again. `typed`: the words of the command line. Raises UserError if the
    setting is given, there or in a file, a value other than the search's choice: rate and
    setting were chosen together.
    """
    # A copy, which keeps what `+key=value` has added for `check` to name.
    chosen = copy.copy(config)
    chosen.lr = found.lr
    if found.setting is None:
        return chosen
    held = getattr(config.chosen.settings, found.setting, None)
    given = any(word.lstrip("+").startswith(f"method.{found.setting}=") for word in typed)
    if held != found.value and (given or held != found.default):
        raise UserError(
            f"method.{found.setting}={held} does not go with rates_from={config.rates_from}, "
            f"which chose {found.value} together with the rate: leave it out, or give lr= too"
        )
    settings = dataclasses.replace(config.chosen.settings, **{found.setting: found.value})
    chosen.method = dataclasses.replace(config.chosen, settings=settings)
    return chosen


def searched_with(config: Config) -> dict[str, Any]:
    """Returns the settings, by dotted keys, that a rate was searched with and holds for."""
    kept = {k: v for k, v in config.resolved().items() if k not in _NOT_OF_A_SEARCH}
    # As given: None follows the rate, and what a run starts from has no fingerprint yet.
    kept |= {"head_lr": config.head_lr, "init_from": config.init_from}
    tried, _ = config.chosen.tried or (None, ())
    for group, left_out in (("method", ("name", tried)), ("fed", ("rounds",))):
        own = kept.pop(group, {})
        kept |= {f"{group}.{k}": v for k, v in own.items() if k not in left_out}
    if source := fingerprint(config.chosen.kind):
        kept[METHOD_FILE] = source[:8]
    return kept
