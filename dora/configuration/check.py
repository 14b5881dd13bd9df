"""Checks a configuration: finds every problem at once, before anything is loaded."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

from dora.adapters.budget import Budget
from dora.configuration.config import MAX_SEED, PATHS, Config, holder
from dora.configuration.groups import PLACES, ModelConfig
from dora.configuration.method_choice import method_names
from dora.configuration.method_class import is_released
from dora.data.tasks import TASKS
from dora.errors import ALL_KEYS
from dora.methods.rules import fraction_or_steps
from dora.plain import dotted
from dora.process import requirements

MAX_FLOAT = (2 - 2**-23) * 2.0**127  # the largest float32, about 3.4e38
MAX_COUNT = 2**31 - 1  # of steps, rows, epochs: a signed 32-bit number, as some of PyTorch's are
SOURCES = ("mini", "dir", "hub")  # the files in conf/data
MAX_THREADS = 1024  # beyond any machine's: a mistyped number would start as many threads


def check(config: Config) -> list[str]:
    """Returns a message for every problem that shows without opening a file of the run's.

    Each message has the value, the rule and a way out.
    """
    infinite = [*_not_finite(config), *_beyond_float32(config)]
    problems = [
        *_not_utf8(config),
        *_unknown_keys(config),
        *_of_choices(config),
        *_of_model(config),
        *config.chosen.settings.problems(None),
        *_of_budget(config),
        *_of_training(config),
        *_of_clients(config),
        *_of_paths(config),
        *requirements.problems(config.device, config.wandb, config.tensorboard, config.results),
    ]
    # Such a number breaks every rule that bounds it; one message is enough.
    said = tuple(text.split("=")[0] + "=" for text in infinite)
    return [*infinite, *(p for p in problems if not p.startswith(said))]


def _values(config: Config) -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of every setting, and of each value in a list."""
    for key, held in dotted(config.flat()).items():
        for value in held if isinstance(held, list) else [held]:
            yield key, value


def _not_finite(config: Config) -> list[str]:
    """Returns a message for every infinite or undefined number."""
    return [
        f"{key}={value} must be a finite number{' (0: no clipping)' if key == 'clip' else ''}"
        for key, value in _values(config)
        if isinstance(value, float) and not math.isfinite(value)
    ]


def _beyond_float32(config: Config) -> list[str]:
    """Returns a message for every finite number that float32, the type of tensors, cannot hold."""
    return [
        f"{key}={value} must lie between -{MAX_FLOAT:.1e} and {MAX_FLOAT:.1e}, as float32 holds it"
        for key, value in _values(config)
        if isinstance(value, float) and MAX_FLOAT < abs(value) < math.inf
    ]


def _not_utf8(config: Config) -> list[str]:
    """Returns a message for every text that is not UTF-8, which no record could hold.

    Such a text comes from a path typed in another encoding.
    """
    return [
        f"{key}={ascii(value)[1:-1]} must be UTF-8; rename it, or set the terminal's encoding"
        for key, value in _values(config)
        # Python turns bytes of the command line that are not UTF-8 into surrogates.
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value)
    ]


def _broken(*rules: tuple[bool, str]) -> list[str]:
    """Returns the messages of the broken rules. A rule is (it is kept, message if not)."""
    return [message for kept, message in rules if not kept]


def _folder_rule(key: str, name: str, marks: str = "._+-") -> tuple[bool, str]:
    """Returns the rule for a name that becomes a folder of the run's path.

    It is made of letters, digits and `marks`.
    """
    # A slash would add a folder, and `..` leave it.
    return re.fullmatch(rf"\w[\w {re.escape(marks)}]*", name) is not None, (
        f"{key}={name} names a folder: letters, digits and {' '.join(marks)} make it up, such as "
        f"{key}=mine"
    )


def _choice_rule(config: Config, key: str, *allowed: str) -> tuple[bool, str]:
    """Returns the rule that a key has one of the allowed values."""
    part, name = holder(config, key)
    value = getattr(part, name)
    return value in allowed, f"{key}={value} must be one of {', '.join(allowed)}"


def _unknown_keys(config: Config) -> list[str]:
    """Returns a message for every key that `+key=value` added and nothing would read."""
    # Hydra sets added keys as attributes of the dataclass, so they are in `vars` but no fields.
    groups = {
        f"{key}.": value for key, value in vars(config).items() if dataclasses.is_dataclass(value)
    }
    parts: dict[str, Any] = {"": config, **{k: v for k, v in groups.items() if k != "method."}}
    return [
        *(
            f"+method.{key}: there is no key method.{key}; {ALL_KEYS}"
            if is_released(config.chosen.kind)
            else f"method.{key}, of {config.method_name}.yaml or the command line: "
            f"{config.chosen.kind.__name__}.settings_type, which is "
            f"{config.chosen.kind.settings_type.__qualname__}, has no such field"
            for key in config.chosen.unknown
        ),
        *(
            f"+{prefix}{key}: there is no key {prefix}{key}; {ALL_KEYS}"
            for prefix, part in parts.items()
            for key in sorted(vars(part).keys() - {f.name for f in dataclasses.fields(part)})
        ),
    ]


def _of_choices(config: Config) -> list[str]:
    """Checks task and data, and the rates given for them and the model."""
    task, data = config.task.name, config.data
    strange = [t for t in config.rates if t not in TASKS]
    # Both tables hold {method: rate}; None stands for no rate.
    tables: dict[str, Any] = {
        "model.lr": config.model.lr,
        **{f"rates.{t}": by for t, by in config.rates.items()},
    }
    given = {
        key: {m: rate for m, rate in by.items() if rate is not None} for key, by in tables.items()
    }
    methods = method_names()
    wrong = {
        key: by
        for key, by in given.items()
        # Numbers beyond float32 are left to their own check.
        if any(m not in methods or -MAX_FLOAT <= v <= 0 for m, v in by.items())
    }
    return _broken(
        (task in TASKS, f"task={task} must be one of {', '.join(TASKS)}"),
        # Without a dash, which parts it from the model's name in the names of tables and figures.
        _folder_rule("data.name", config.data_name, "._+"),
        (
            data.name is None or data.source != "mini",
            f"data.name={data.name} names rows of yours, and data=mini is the suite's own: give "
            "data=dir or data=hub, or leave the name out",
        ),
        (
            data.name in (None, data.source) or data.name not in SOURCES,
            f"data.name={data.name} is the name of another source, and these are rows of "
            f"data={data.source}: give another name",
        ),
        *(
            (False, f"{key}={by} must give methods ({', '.join(methods)}) rates above 0")
            for key, by in wrong.items()
        ),
        (not strange, f"rates: {', '.join(strange)} must be among the tasks {', '.join(TASKS)}"),
        (data.source in SOURCES, f"data.source={data.source} must be one of {', '.join(SOURCES)}"),
        (
            data.source != "dir" or bool(data.dir),
            "data=dir needs data.dir=FOLDER, an official GLUE download (zips or unpacked TSVs)",
        ),
        (
            data.source != "mini" or not data.dir,
            "data.dir is given but data=mini: write data=dir too",
        ),
    )


def _of_model(config: Config) -> list[str]:
    """Checks that one model alone is given, and that its name is no other model's."""
    model = config.model
    given = [f"model.{key}={value}" for key, value in model.places.items()]
    # A folder is taken whatever else is given, as with model=roberta_base model.path=FOLDER.
    known = {} if model.path or len(given) > 1 else model.namesake()
    # `model.hub=$HUB` is empty if the shell has no HUB, and another model would be trained.
    places = {key: getattr(model, key) for key in PLACES}
    empty = [key for key, value in places.items() if value is not None and not value.strip()]
    named = _folder_rule("model.name", config.model_name)
    if model.name is None and model.hub and not model.path:  # then the name is the repository's
        named = named[0], f"model.hub={model.hub} must be a repository of the hub, ORG/NAME"
    return _broken(
        named,
        *(
            (
                False,
                f"model.{key}= must name a model; model.{key}=null says that there is none (a "
                "shell's variable that is not set is empty)",
            )
            for key in empty
        ),
        (
            bool(model.path) or len(given) < 2,
            f"{' and '.join(given)} are {len(given)} models: write model=hub too, which leaves the "
            "typed one alone",
        ),
        (
            bool(model.hub) or model.revision == ModelConfig.revision,
            f"model.revision={model.revision} is a commit of model.hub, which is not given: write "
            "model=hub model.hub=ORG/NAME too",
        ),
        (
            known in ({}, model.places),
            f"{', '.join(given)} is not {model.name}, which is {', '.join(known.values())}: write "
            "model=hub too, or give another model.name",
        ),
    )


def _of_budget(config: Config) -> list[str]:
    """Checks the budget, and the target, which a method without a budget does not use."""
    found = []
    # A method without a budget gets a wrong one refused all the same: it may be a part of a sweep.
    targets = [config.targets] if config.chosen.has_budget else []
    for parse in (lambda: Budget.parse(config.budget), *targets):
        try:
            parse()
        except ValueError as e:
            found.append(str(e))
    return found


def _of_training(config: Config) -> list[str]:
    """Checks seed, lengths, rates and regularisation."""
    counts = (
        "epochs",
        "max_steps",
        "batch_size",
        "grad_accum",
        "threads",
        "eval_every",
        "patience",
        "limit_train",
        "checkpoint_every",
    )
    # Shorter than 8 tokens, a pair's texts hardly have room beside the special tokens.
    lowest = {**dict.fromkeys(counts, 1), "max_length": 8}
    most = {**dict.fromkeys(lowest, MAX_COUNT), "threads": MAX_THREADS}
    # None stands for a number that is not given.
    given = {key: n for key in lowest if (n := getattr(config, key)) is not None}
    rates = {key: lr for key in ("lr", "head_lr") if (lr := getattr(config, key)) is not None}
    dropout, batch, parts = config.head_dropout, config.batch_size, config.grad_accum
    own_threads = config.model.threads
    return fraction_or_steps("warmup", config.warmup) + _broken(
        *(
            (n >= lowest[key], f"{key}={n} must be at least {lowest[key]}")
            for key, n in given.items()
        ),
        *((n <= most[key], f"{key}={n} must be at most {most[key]}") for key, n in given.items()),
        (
            own_threads is None or 1 <= own_threads <= MAX_THREADS,
            f"model.threads={own_threads} must lie between 1 and {MAX_THREADS}",
        ),
        (0 <= config.seed <= MAX_SEED, f"seed={config.seed} must lie between 0 and {MAX_SEED}"),
        *((lr > 0, f"{key}={lr} must be above 0") for key, lr in rates.items()),
        (config.weight_decay >= 0, f"weight_decay={config.weight_decay} must be at least 0"),
        (config.clip >= 0, f"clip={config.clip} must be at least 0 (0: no clipping)"),
        (dropout is None or 0 <= dropout < 1, f"head_dropout={dropout} must lie in [0, 1)"),
        (
            batch >= parts or batch < 1,  # a batch below 1 has its own message above
            f"grad_accum={parts} cuts a batch of batch_size={batch} into empty parts",
        ),
        # The names that data/order.py, methods/schedule.py, preparing/precision.py and
        # preparing/rows.py know.
        _choice_rule(config, "batching", "length", "random"),
        _choice_rule(config, "schedule", "linear", "cosine", "constant"),
        _choice_rule(config, "precision", "auto", "fp32", "bf16"),
        _choice_rule(config, "select", "dev", "heldout"),
    )


def _of_clients(config: Config) -> list[str]:
    """Checks the rounds of a federated run."""
    fed = config.fed
    counts = {key: getattr(fed, key) for key in ("local_steps", "rounds")}
    return _broken(
        # `plan_length` compares with the training rows.
        (fed.clients >= 1, f"fed.clients={fed.clients} must be at least 1"),
        *(
            (n is None or 1 <= n <= MAX_COUNT, f"fed.{key}={n} must lie between 1 and {MAX_COUNT}")
            for key, n in counts.items()
        ),
        (0 < fed.fraction <= 1, f"fed.fraction={fed.fraction} must lie in (0, 1]; 1 selects all"),
        (0 < fed.alpha <= 1e6, f"fed.alpha={fed.alpha} must lie in (0, 1e6]; 0.5 is usual"),
        _choice_rule(config, "fed.partition", "dirichlet", "iid"),
        _choice_rule(config, "fed.restart", "run", "round"),
    )


def _of_paths(config: Config) -> list[str]:
    """Checks that paths name something; `init_from=$RUN` is empty if the shell has no RUN.

    Also that the method takes `init_from` at all.
    """
    found = []
    for key in PATHS:
        part, name = holder(config, key)
        path = getattr(part, name)
        what = "file" if key == "rates_from" else "folder"
        if path is not None and not path.strip():
            none = "" if key == "results" else f"; {key}=null says that there is none"
            found.append(
                f"{key}= must name a {what}{none} (a shell's variable that is not set is empty)"
            )
        # `from_hydra` has expanded the homes that exist.
        elif path is not None and path.startswith("~"):
            found.append(
                f"{key}={path}: there is no home {path.split('/')[0]}; "
                f"a {what} of that name is ./{path}"
            )
    if config.init_from and not config.chosen.kind.starts_from_runs:
        found.append(
            f"init_from={config.init_from}: method={config.method_name} cannot begin with the "
            "tensors that a run stores; merge that run into a model (python -m dora.export RUN "
            "--merge) and give its folder as model.path"
        )
    return found
