"""Notes on settings that another setting of the run leaves without effect.

Notes, not errors: a sweep may mix runs in which a setting counts with others in which it does not.
"""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any

from dora.adapters.plan import Plan
from dora.configuration.config import Config
from dora.configuration.method_choice import packaged, packaged_names
from dora.plain import dotted
from dora.preparing.cuda_graphs import not_recordable
from dora.preparing.precision import computes_on_gpu


def unused_notes(
    config: Config, plan: Plan | None, searched: bool = False, here: bool = True
) -> list[str]:
    """Returns a note for each setting that was given and has no effect, with the reason.

    `plan`: None without a budget. `searched`: a search chose the rate that `config` holds by now.
    `here`: the run is to be trained on this machine.
    """
    given = dotted(config.flat())
    why = {
        **_of_length_and_rate(config, searched),
        **_of_model(config),
        **_of_clients(config),
        **_of_graphs(config, here),
        **_of_method(config, plan, searched),
    }
    return [f"{key}={_typed(given[key])} has no effect: {reason}" for key, reason in why.items()]


def _typed(value: object) -> str:
    """Returns a value as one types it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _of_length_and_rate(config: Config, searched: bool) -> dict[str, str]:
    found = {}
    if config.max_steps is not None and config.epochs != Config.epochs:
        found["epochs"] = f"max_steps={config.max_steps} is the run's length"
    if config.rates_from is not None and not searched:
        found["rates_from"] = f"lr={config.lr} is given"
    return found


def _of_model(config: Config) -> dict[str, str]:
    found: dict[str, str] = {}
    model, kind = config.model, config.chosen.kind
    known = model.namesake()
    # The choices of the suite name a hub's model too, which nobody has typed.
    own = model.name is None or (known != {} and known.get("hub") != model.hub)
    if model.path and model.hub and own:
        keys = ["hub", *(["revision"] if model.revision != type(model).revision else [])]
        found |= {f"model.{key}": f"model.path={model.path} is the model" for key in keys}
    if config.keep_model and kind.result != "model":
        found["keep_model"] = f"method={config.method_name} leaves no whole model"
    return found


def _of_clients(config: Config) -> dict[str, str]:
    fed = config.fed
    if config.chosen.kind.federated:
        alone = fed.partition == "iid" and fed.alpha != type(fed).alpha
        return {"fed.alpha": "fed.partition=iid deals equal parts"} if alone else {}
    usual = asdict(type(fed)())
    why = f"method={config.method_name} has no clients"
    return {f"fed.{key}": why for key, value in asdict(fed).items() if value != usual[key]}


def _of_graphs(config: Config, here: bool) -> dict[str, str]:
    """Says why no step is recorded although cuda_graphs=true."""
    if not config.cuda_graphs:
        return {}
    # On another machine auto may find a GPU.
    on_gpu = computes_on_gpu(config.device) or (config.device == "auto" and not here)
    why = not_recordable(config, on_gpu)
    return {"cuda_graphs": f"no step is recorded {why}"} if why else {}


def _of_method(config: Config, plan: Plan | None, searched: bool) -> dict[str, str]:
    """Says which of the method's settings have no effect, where they differ from its defaults.

    The defaults of a method of one's own, in a file of --config-dir, are not known here.
    """
    if config.method_name not in packaged_names():
        return {}
    settings, usual = config.chosen.settings, _defaults(config.method_name)
    key, rate = config.key_and_rate()
    why = settings.unused(plan)
    if key != "method.base_lr":
        decides = f"rates_from={config.rates_from}" if searched else f"{key}={rate}"
        why = {**why, "base_lr": f"{decides} is the rate"}
    return {f"method.{k}": text for k, text in why.items() if getattr(settings, k) != usual[k]}


@functools.cache  # a sweep asks for each of its runs
def _defaults(method: str) -> dict[str, Any]:
    return asdict(packaged(method).settings)
