"""Explains mistakes on the command line, all at once: each with its value, rule and way out.

Hydra itself stops at the first mistake. So every setting is composed by itself, and those that
composed are checked together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    OmegaConfBaseException,
)

from dora.cli.choices import choices, composing, group_names, keys
from dora.cli.composer import Composer
from dora.cli.grammar import first_lines, malformed, single_values
from dora.configuration.check import check
from dora.configuration.method_choice import ONE_FILE, as_a_choice
from dora.configuration.value_types import type_rule
from dora.errors import ALL_KEYS, UserError
from dora.records.words import key_of

# Hydra raises these if a word, or a file of --config-dir, does not fit.
MISTAKES = (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError)
_LAUNCHERS = {
    "hydra/launcher=local": "hydra-joblib-launcher",
    "hydra/launcher=slurm": "hydra-submitit-launcher",
}
# Words of other libraries that are no key here, each with what to type.
_ELSEWHERE = {
    "r": "budget=r8",
    "rank": "budget=r8",
    "learning_rate": "lr",
    "num_train_epochs": "epochs",
    "max_seq_length": "max_length",
    "lora_alpha": "method.alpha",
    "lora_dropout": "method.dropout",
    "target_modules": "target",
    "group_by_length": "batching",
}


def is_mistake(error: BaseException) -> bool:
    """Tells a mistake of the user's from a bug of ours."""
    # Hydra raises a plain ValueError for `task=null`. Every ValueError would hide bugs.
    return isinstance(error, MISTAKES) or str(error).startswith("Config group override must be")


def explain(
    overrides: Sequence[str], sweeping: bool = False, config_dir: str | None = None
) -> list[str]:
    """Returns one message for each mistake in the overrides, empty if there is none.

    If `sweeping`, each value of an override is tried; otherwise several values are a mistake.
    """
    # Hydra is still set up for the command that failed, and refuses to be set up twice.
    GlobalHydra.instance().clear()
    with composing(config_dir):
        problems = {word: text for word in overrides if (text := malformed(word))}
        words = [word for word in overrides if word not in problems]
        single = []
        for word in words:
            values = single_values(word)
            if sweeping or len(values) == 1:
                single += values
            else:
                problems[word] = f"{word}: several values make a sweep, which needs -m"
        found = [*problems.values(), *_of_single_values(list(dict.fromkeys(single)), config_dir)]
    # The same problem of several runs of a sweep is one message; a set would lose the order.
    return list(dict.fromkeys(found))


def _of_single_values(words: Sequence[str], config_dir: str | None) -> list[str]:
    """Returns the messages for settings that have one value each. Needs `composing`.

    Choices of a file (`task=…`) are tried first, then any other setting, with the choices that
    were right. A setting of a choice that was wrong (`method.…` after `method=…`) is not judged:
    nobody knows which settings there are.
    """
    compose = Composer(GlobalHydra.instance().config_loader())
    groups = [*group_names(config_dir), "hydra/launcher", "hydra/sweeper"]
    chosen = [word for word in words if key_of(word) in groups]
    wrong = {w: text for w in chosen if (text := _of_choice(compose, w, config_dir))}
    right = _by_key(word for word in chosen if word not in wrong)
    # In a sweep over method=dora,dorra the settings are those of the choice that is right.
    unknown = {key_of(word) for word in wrong} - right.keys()
    settings = [w for w in words if w not in chosen and _group_of(w) not in unknown]
    wrong |= {w: text for w in settings if (text := _of_setting(compose, w, right, groups))}
    fitting = _by_key(word for word in [*chosen, *settings] if word not in wrong)
    together = [text for row in _rows(fitting) for text in _of_run(compose, row)]
    return [*wrong.values(), *together]


def _of_choice(compose: Composer, word: str, config_dir: str | None) -> str | None:
    """Returns the message for `task=…` and the like, tried alone; None if it is right."""
    key, value = key_of(word), word.partition("=")[2]
    if key in ONE_FILE and value.startswith("["):
        return f"{word}: a run has one {key}; several runs: -m {key}={value.strip('[]')}"
    error = _error(compose, [word])
    if error is None:
        return None
    # Hydra adds with a plus sign the groups that the suite's own list of defaults lacks.
    if word.startswith("+") and _error(compose, [f"{key}={value}"]) is None:
        return f"{word}: write {key}={value} without {word.partition(key)[0]}"
    # Its file in conf/ is there, but the configuration that it extends comes with the launcher.
    if word in _LAUNCHERS:
        return f"{word} needs Hydra's launcher for it: pip install {_LAUNCHERS[word]}"
    names = choices(key, config_dir)
    if value in names:  # the file is there, and something in it is wrong
        return f"{word}: {_in_file(error)}"
    if value.lower() in ("all", "glue"):
        hint = f"; all of them: -m '{key}=glob(*)'"
    else:
        near = _like(value, names)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
    own = key in ("method", "experiment") and config_dir is not None
    if own and not Path(str(config_dir), key).is_dir():
        hint = f"; --config-dir={config_dir} holds no {key}/ folder{hint}"
    return f"{word}: choose {key} from {', '.join(names)}{hint}"


def _like(value: str, names: Sequence[str]) -> list[str]:
    """Returns up to three names that begin with `value`, in any case, else the nearest one."""
    lower = {name.lower(): name for name in names}
    begin = [name for key, name in lower.items() if key.startswith(value.lower())]
    near = difflib.get_close_matches(value.lower(), lower, n=1)
    return begin[:3] if value and begin else [lower[key] for key in near]


def _of_setting(
    compose: Composer, word: str, right: dict[str, list[str]], groups: Sequence[str]
) -> str | None:
    """Returns the message for a setting, tried with the choices that are right; None if it fits.

    In a sweep over `method=…` or `experiment=…` a setting may fit with some choices only: the
    message then says with which it does not.
    """
    # The own group's choice and the experiment decide alone which settings there are.
    deciding = (_group_of(word), "experiment")
    kept = [words if group in deciding else words[-1:] for group, words in right.items()]
    # Choices may contradict each other; trying the whole run says so, once.
    rows = [row for row in product(*kept) if _error(compose, row) is None]
    errors = {row: _error(compose, [*row, word]) for row in rows}
    failing = {row: error for row, error in errors.items() if error is not None}
    if not failing:
        return None
    row, error = next(iter(failing.items()))
    text = _told(word, error, [*groups, *keys(compose.composed(row))])
    if len(failing) == len(errors):
        return text
    # Each row has several choices; those to blame are in none of the rows that fit.
    fine = {choice for row in errors if row not in failing for choice in row}
    never = [choice for row in failing for choice in row if choice not in fine]
    return f"{text} (with {', '.join(dict.fromkeys(never or row))})"


def _told(word: str, error: BaseException, known: Sequence[str]) -> str:
    """Returns the message for a setting that raised `error`; `known` are the keys there are."""
    # Hydra wraps the errors of OmegaConf in "Error merging override …", which says nothing more.
    cause, key = error.__cause__ or error, key_of(word)
    if isinstance(cause, GrammarParseError):
        return (
            f"{word}: ${{ begins an interpolation such as ${{oc.env:HOME}}; "
            "write \\${ for the signs themselves"
        )
    if (rule := type_rule(cause)) is not None:
        return f"{word} {rule}{_span_hint(word)}"
    # A key or the beginning of one, such as model.own: then the value is wrong.
    if key.startswith("hydra.") or any(f"{name}.".startswith(f"{key}.") for name in known):
        return f"{word}: {first_lines(cause)}{_span_hint(word)}"
    # No task has an entry until one is added, and Hydra adds with a plus sign alone.
    if key.split(".")[0] == "rates":
        return f"{word}: write +rates.TASK.METHOD=RATE, such as +rates.rte.lora=1e-3"
    return f"{word}: there is no key {key}; {_hint(key, known)}"


def _span_hint(word: str) -> str:
    """Returns how to type several values for `seed=1-5` or `seed=1..5`; else ""."""
    span = re.fullmatch(r"([\w.]+)=(\d+)(?:-|\.\.)(\d+)", word)
    return f"; several: -m '{span[1]}=range({span[2]},{int(span[3]) + 1})'" if span else ""


def _in_file(error: BaseException) -> str:
    """Returns the message for a file of --config-dir that cannot be used."""
    cause = error.__cause__ or error
    # Hydra raises its own error here without `from`. Elsewhere `__context__` may be any error
    # that was being handled when composing began.
    if isinstance(error, ConfigCompositionException) and "while composing" in str(error):
        cause = error.__context__ or error
    where = re.match(r"In '[^']*': ", str(error))  # the file, which may be one of several
    body = re.match(r"Merge error: .* is not a subclass of (\w+)Config\. value: (.*)", str(cause))
    if body and (group := body[1].lower()) in ONE_FILE:  # `task: rte`, say
        return f"{where[0] if where else ''}{as_a_choice(group, body[2])}"
    if (rule := type_rule(cause)) is not None:
        value = getattr(cause, "value", None)
        given = "null" if value is None else value
        return f"{where[0] if where else ''}{getattr(cause, 'full_key', '')}={given} {rule}"
    if not isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return first_lines(error.__cause__ or error)
    key = str(cause.full_key)
    if where and key == where[0].removeprefix("In '").split("/")[0]:  # such as experiment
        return f"{where[0]}its first line must be: # @package _global_"
    parent = key.rpartition(".")[0]
    # Nothing composes with this file, so the keys to choose from are those beside the wrong one.
    known = [f"{parent}.{name}".lstrip(".") for name in cause.parent_node or ()]
    return f"{where[0] if where else ''}there is no key {key}; {_hint(key, known)}"


def _hint(key: str, known: Sequence[str]) -> str:
    # With 0.6, difflib's own default, `data_dir` finds data.dir, and `foo` nothing.
    # A choice's file states its name, which nobody types.
    typed = [name for name in known if name not in ("method.name", "task.name", "data.source")]
    last = key.rpartition(".")[2]
    # The same word elsewhere, of the method first: `alpha` is rather method.alpha than fed.alpha.
    same = sorted(
        (name for name in typed if name.rpartition(".")[2] == last),
        key=lambda name: not name.startswith("method."),
    )
    near = same[:2] or difflib.get_close_matches(key, typed, n=2, cutoff=0.6)
    if not same and last in _ELSEWHERE:
        near = [_ELSEWHERE[last]]
    return f"did you mean {' or '.join(near)}?" if near else ALL_KEYS


def _of_run(compose: Composer, row: list[str]) -> list[str]:
    """Returns the problems of one whole configuration."""
    try:
        return check(compose(row))
    except (*MISTAKES, UserError) as e:
        return [first_lines(e)]


def _error(compose: Composer, words: Sequence[str]) -> BaseException | None:
    """Returns the error that composing these words raises, None if they fit."""
    try:
        compose(words)
    except (*MISTAKES, UserError, ValueError) as e:  # ValueError: see `is_mistake`
        return e
    return None


def _group_of(word: str) -> str:
    """Returns the choice that a setting belongs to: `method` for method.dem=0.1, "" for lr=1e-3."""
    group = key_of(word).rpartition(".")[0]
    return group.replace("hydra.", "hydra/")  # hydra.launcher.x is a setting of hydra/launcher=…


def _by_key(words: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        found.setdefault(key_of(word), []).append(word)
    return found


def _rows(by_key: dict[str, list[str]]) -> list[list[str]]:
    """Returns rows with one word of each key, the fewest that contain every word."""
    # Not the whole grid, which may have thousands of runs. A problem that only two values together
    # have may stay unseen: `sweep.plan` finds it as soon as each value is right by itself.
    longest = max(map(len, by_key.values()), default=1)
    return [[words[min(n, len(words) - 1)] for words in by_key.values()] for n in range(longest)]
