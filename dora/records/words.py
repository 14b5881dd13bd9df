"""The words that were typed for a run, by its record: shown as a command only if they are safe.

A record may be somebody else's. The commands that this suite prints are pasted into shells, so
words that no run of this suite can have had are never among them.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dora.plain import cut, printable
from dora.records.packed import results_of

_MOST_WORDS, _MOST_LETTERS = 200, 4096
_GROUPS = ("task", "method", "model", "data", "experiment")  # each names a file of conf/
# `..` would name a file outside conf/, which may set hydra.callbacks, and those run anything.
_CHOICE = re.compile(r"(?!\.)[\w.+-]+(/(?!\.)[\w.+-]+)*", re.ASCII)
# A setting as Hydra reads it: `key=value`, `+key=value`, `++key=value`, `~key`. Keys with a slash
# or an @ choose groups of Hydra's own, and are not matched.
_WORD = re.compile(r"(?:\+{1,2}|~)?([A-Za-z_]\w*(?:\.[A-Za-z_0-9]\w*)*)(?:=(.*))?", re.ASCII)


class Foreign(ValueError):
    """Raised for words of a record that no run of this suite can have had; says which."""


def key_of(word: str) -> str:
    """Returns the key of a setting without the signs before it: `lr` for ++lr=1 and ~lr."""
    return word.partition("=")[0].lstrip("+~")


def with_values(words: Sequence[str], **values: object) -> tuple[str, ...]:
    """Returns `words` with these values of some keys, each once and at the end."""
    rest = [word for word in words if key_of(word) not in values]
    return *rest, *(f"{key}={value}" for key, value in values.items())


def typed(words: Any, folder: Path | None = None) -> tuple[str, ...]:
    """Returns the words to type after `python -m dora.run`.

    Raises Foreign for words that no run has. A run's words are settings of this suite's own keys,
    and --config-dir. Hydra's own keys are not among them: they choose what Hydra calls
    (`hydra/launcher`, `hydra.sweeper._target_`) and where it writes. A --config-dir can do both, so
    it must exist on this machine, and must not lie inside the results that `folder`, the run's
    directory, came with.
    """
    if not isinstance(words, list | tuple) or len(words) > _MOST_WORDS:
        raise Foreign("its record holds words that no run has")
    for word in words:
        if problem := _problem(word, folder):
            raise Foreign(f"its record holds words that no run has ({cut(word)}: {problem})")
    return tuple(words)


def as_command(words: Sequence[str]) -> str:
    """Returns the words as a line for a shell, quoted where a shell would read more into them."""
    return f"python -m dora.run {shlex.join(words)}"


def command_of(words: Any, folder: Path, otherwise: str) -> str:
    """Returns `as_command` of a record's words, or `otherwise` where it has none that are safe."""
    try:
        return otherwise if words is None else as_command(typed(words, folder))
    except Foreign as e:
        return f"{otherwise} ({e})"


def _problem(word: Any, folder: Path | None) -> str | None:
    if not isinstance(word, str) or len(word) > _MOST_LETTERS:
        return "no word of a command"
    # Line feeds begin another command; escapes and marks of direction show one that is not there.
    if printable(word) != word:
        return "control characters"
    if word.startswith("--config-dir="):
        return _of_config_dir(Path(word.partition("=")[2]), folder)
    return _of_setting(word)


@functools.lru_cache(maxsize=4096)  # a study's runs share most of their words
def _of_setting(word: str) -> str | None:
    found = _WORD.fullmatch(word)
    if found is None:
        return "no setting"
    key, value = found.groups()
    if not _known(key):
        return "no key of this suite"
    if key in _GROUPS and value is not None and not _CHOICE.fullmatch(value):
        return "no name of a choice"
    return None  # any other value is a value: Hydra reads it as text, number or list


def _of_config_dir(place: Path, folder: Path | None) -> str | None:
    if not (place.is_absolute() and place.is_dir()):
        return "no folder of this machine"
    if folder is None:
        return None
    came_with = results_of(folder) or folder  # a run that was moved came with its directory alone
    # Resolved, since a link elsewhere may lead into the results.
    inside = place.resolve().is_relative_to(came_with.resolve())
    return "inside the results themselves" if inside else None


def _known(key: str) -> bool:
    """Tells whether `key` is one of this suite's.

    Examples are `lr`, `model.path`, `method.beta`, `model.lr.dora` and `rates.rte.lora`.
    """
    first, *rest = key.split(".")
    below = _keys().get(first)
    if not rest or below is None:
        return first in _keys() and not rest
    if first == "rates":
        return True
    if first == "method":
        # Any setting: the method may be from outside. `_target_` would name code to import.
        return len(rest) == 1 and rest[0].isidentifier() and not rest[0].startswith("_")
    # model.lr holds a rate by method, model.own any key of the suite.
    free = first == "model" and rest[0] in ("lr", "own")
    return rest[0] in below and (len(rest) == 1 or free)


@functools.cache
def _keys() -> dict[str, frozenset[str] | None]:
    """Returns every first part of a key with the parts that may follow its dot, None for none."""
    # Late: importing Hydra takes 0.2 s.
    from dora.configuration.config import Config
    from dora.configuration.groups import DataConfig, FedConfig, ModelConfig, TaskConfig

    own: dict[str, frozenset[str] | None] = {name: None for name in [*_names(Config), "experiment"]}
    groups = {"task": TaskConfig, "model": ModelConfig, "data": DataConfig, "fed": FedConfig}
    below = {group: _names(kind) for group, kind in groups.items()}
    return {**own, **below, "method": frozenset(), "rates": frozenset()}


def _names(kind: Any) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(kind))
