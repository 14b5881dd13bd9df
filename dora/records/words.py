"""The words that were typed for a run, by its record: shown as a command only if they are safe.

A record may be somebody else's. The commands that this suite prints are pasted into shells, so
words that no run of this suite can have had are never among them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dora.plain import cut, printable
from dora.records import packed
from dora.records.schema import Run

_MOST_WORDS, _MOST_LETTERS = 200, 4096
_GROUPS = ("task", "method", "model", "data", "experiment")  # each names a file of conf/
# `..` would name a file outside conf/, which may set hydra.callbacks, and those run anything.
_CHOICE = re.compile(r"(?!\.)[\w.+-]+(/(?!\.)[\w.+-]+)*", re.ASCII)
# A setting as Hydra reads it: `key=value`, `+key=value`, `++key=value`, `~key`. Keys with a slash
# or an @ choose groups of Hydra's own, and are not matched.
_WORD = re.compile(r"(?:\+{1,2}|~)?([A-Za-z_]\w*(?:\.[A-Za-z_0-9]\w*)*)(?:=(.*))?", re.ASCII)
# One item of a list: in quotes, or without a comma. Signs that no item may have within.
_ITEM = re.compile(r"""\s*(?:"[^"]*"|'[^']*'|[^,]+)""")
_SIGNS = re.compile(r"""["'\\[\]{}]""")
# Keys of earlier versions, which old records hold: the key of today, and its value for each of
# theirs.
FORMER = {"group_by_length": ("batching", {"true": "length", "false": "random"})}


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
    today = [_of_today(word) for word in words]
    for word in today:
        if problem := _problem(word, folder):
            raise Foreign(f"its record holds words that no run has ({cut(word)}: {problem})")
    return tuple(today)


def at_home(run: Run, folder: Path) -> tuple[str, ...] | None:
    """Returns the words of the record `run` that name its run from here, or None if it has none.

    `folder`: the run's directory. Where its results folder was moved, or is looked at from another
    folder than the one in which the words were typed, `results=` as typed would name another
    folder, and train the run there anew. Other paths are then named from here as well, as far as
    `results` tells where they were typed and they are there.
    """
    if (words := run.get("words")) is None:
        return None
    home, typed_home = _home(folder), (run.get("config") or {}).get("results")
    if home is None or not isinstance(typed_home, str) or _same(typed_home, home):
        return tuple(words)
    began = _where_typed(typed_home, home)
    if began is not None:
        words = [_from_here(word, began) for word in words]
    return with_values(words, results=home)


def _where_typed(typed_home: str, home: Path) -> Path | None:
    """Returns the folder from which `typed_home` is the folder `home`; None if there is none."""
    parts, whole = Path(typed_home).parts, Path(os.path.abspath(home)).parts
    # An absolute path has the root as its first part, which nothing stands before.
    typed_here = not typed_home.startswith("~") and whole[-len(parts) :] == parts
    return Path(*whole[: -len(parts)]) if typed_here and len(parts) < len(whole) else None


def _from_here(word: str, began: Path) -> str:
    """Returns a word whose relative path was typed in the folder `began` with the whole path."""
    # Late: importing Hydra takes 0.2 s.
    from dora.configuration.config import PATHS

    key, _, value = word.partition("=")
    if key.startswith("method.") and value[:1] == "[":
        return f"{key}={_runs_from_here(value, began)}"
    # In Hydra's quotes where it has a comma, which a sweep would part it at.
    path = value[1:-1] if value[:1] == value[-1:] == '"' else value
    if key not in PATHS or not path or path.startswith("~") or "\\" in path:
        return word
    with contextlib.suppress(OSError, ValueError):
        if not Path(path).is_absolute() and (began / path).exists():
            return f"{key}={began / path}"  # without quotes, as `results`: it is one run's
    return word


def _runs_from_here(value: str, began: Path) -> str:
    """Returns a method's list with the whole paths of the runs that it names from `began`.

    A record does not say which setting of a method names runs, as CoRA's `runs` does: the run.json
    in each of their directories does.
    """
    items = [item.strip().strip("\"'") for item in _ITEM.findall(value[1:-1])]
    with contextlib.suppress(OSError, ValueError):
        # A quote or a backslash within a path would need signs that only Hydra's grammar knows.
        sound = value[-1] == "]" and not _SIGNS.search(f"{''.join(items)}{began}")
        if sound and any((began / item / "run.json").is_file() for item in items):
            kept = [f'"{item}"' if item.startswith("~") else f'"{began / item}"' for item in items]
            return f"[{','.join(kept)}]"
    return value


def _same(typed_home: str, home: Path) -> bool:
    """Tells whether a record's results folder, seen from here, is the folder `home`."""
    # ValueError: a record of somebody else's may hold a null byte.
    with contextlib.suppress(OSError, ValueError):
        return Path(typed_home).expanduser().samefile(home)
    return False


def as_command(words: Sequence[str]) -> str:
    """Returns the words as a line for a shell, quoted where a shell would read more into them."""
    return f"python -m dora.run {shlex.join(words)}"


def command_of(words: Any, folder: Path, otherwise: str) -> str:
    """Returns `as_command` of a record's words, or `otherwise` where it has none that are safe."""
    try:
        return otherwise if words is None else as_command(typed(words, folder))
    except Foreign as e:
        return f"{otherwise} ({e})"


def _of_today(word: Any) -> Any:
    """Returns a word with the key of today for one of FORMER; any other word as it is."""
    old, _, value = word.partition("=") if isinstance(word, str) else ("", "", "")
    new, values = FORMER.get(old, ("", {}))
    return f"{new}={values[value.lower()]}" if value.lower() in values else word


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
    # Resolved, since a link elsewhere may lead into the results.
    if folder is not None and place.resolve().is_relative_to(_results(folder)):
        return "inside the results themselves"
    return None


def _results(folder: Path) -> Path:
    """Returns the resolved results folder that holds a run, or its directory if that was moved."""
    home = _home(folder)
    return (folder if home is None else home).resolve()


def _home(folder: Path) -> Path | None:
    """Returns the results folder that holds a run, as it was typed; None if the run was moved.

    RESULTS/runs/DATA/TASK/MODEL/METHOD/BUDGET/KEY/sSEED: "runs" is six parents up. An unpacked
    run came with the folder that its packed file lies in.
    """
    if (file := packed.origin(folder)) is not None:
        return file.parent
    # A directory may be named from within the results, as `s1`.
    for above in (folder.parents, folder.resolve().parents):
        if len(above) > 7 and above[6].name == "runs":
            return above[7]
    return None


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
