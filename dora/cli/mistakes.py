"""Mistakes on the command line explained, all at once: each with its value, rule and way out."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence

import yaml
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from dora.check import check
from dora.cli.choices import choices, composing, group_names, keys
from dora.cli.line import is_setting, quoted
from dora.config import from_hydra

# What Hydra raises where a word, or a file of --config-dir, does not fit.
MISTAKES = (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError)
_LAUNCHERS = {
    "hydra/launcher=local": "hydra-joblib-launcher",
    "hydra/launcher=slurm": "hydra-submitit-launcher",
}


def explain(
    overrides: Sequence[str], sweeping: bool = False, config_dir: str | None = None
) -> list[str]:
    """Names all that is wrong with each override; Hydra itself stops at the first.

    Words that are no settings are sorted out first. Then choices (task=…) are tried, then each value by
    itself with the choices that were right, then what is left together, for what `check` finds. A setting
    of a choice that was wrong (method.… after method=…) is not judged. When `sweeping`, each of an
    override's values is tried.
    """
    GlobalHydra.instance().clear()
    with composing(config_dir):
        problems = {word: text for word in overrides if (text := _malformed(word))}
        whole = [word for word in overrides if word not in problems]
        if sweeping:
            single = list(dict.fromkeys(value for word in whole for value in _values(word)))
        else:
            several = [word for word in whole if len(_values(word)) > 1]
            problems |= {w: f"{w}: several values make a sweep, which needs -m" for w in several}
            single = [word for word in whole if word not in several]
        found = [*problems.values(), *_Judge(config_dir).problems(single)]
    return list(dict.fromkeys(found))


def first_lines(error: BaseException) -> str:
    """Hydra's message without its traceback and its trailing hints about internals."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [
        line
        for line in lines
        if not re.match(
            r"(full_key|object_type|reference_type)[:=]|set HYDRA|Config search|See https", line
        )
    ]
    return " ".join(kept[:4])


def _parsed(word: str) -> Override:
    """A word as Hydra reads it. Raises HydraException. `glob()` asks the loader which choices there are."""
    loader = GlobalHydra.instance().config_loader()
    (override,) = OverridesParser.create(config_loader=loader).parse_overrides([word])
    return override


def _malformed(word: str) -> str | None:
    """Why a word is no setting at all, if it is none."""
    key, _, value = word.partition("=")
    if not is_setting(word):
        return f"{word}: settings are written key=value, such as task=sst2"
    try:
        override = _parsed(word)
    except HydraException:
        if not _parses(f"{key}=1"):
            return f"{word}: {key} is no key; --help lists the keys"
        if re.search(r"(^|,)\s*(,|$)", value):
            return f"{word}: a value is missing beside a comma"
        whole = shlex.quote(f"{key}={quoted(value)}")
        return f"{word}: brackets, quotes and some other signs mean something to Hydra; as one value write {whole}"
    if not override.is_sweep_override():
        return None
    if not override.is_discrete_sweep():
        return f"{word}: this sweeper takes lists (1,2), range() and choice(), no interval()"
    try:
        none = not list(override.sweep_iterator())
    except (HydraException, ValueError) as e:  # ValueError: Python's own range() with a step of 0
        return f"{word}: {first_lines(e)}"
    return f"{word}: there is no value in it" if none else None


def _parses(word: str) -> bool:
    try:
        _parsed(word)
    except HydraException:
        return False
    return True


def _values(word: str) -> list[str]:
    """`seed=1,2` as seed=1 and seed=2; anything else as it is."""
    override = _parsed(word)
    if not override.is_sweep_override():
        return [word]
    return [f"{_key(word)}={value}" for value in override.sweep_string_iterator()]


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~")


def _group(override: str) -> str:
    """The choice that a setting belongs to: `method` of method.dem=0.1, nothing of lr=1e-3."""
    return _key(override).rpartition(".")[0].replace("hydra.", "hydra/")


def _rows(by_key: dict[str, list[str]]) -> list[list[str]]:
    """Overrides with one value of each key, so many that every value is in one of them."""
    longest = max(map(len, by_key.values()), default=1)
    return [[values[min(n, len(values) - 1)] for values in by_key.values()] for n in range(longest)]


class _Judge:
    """Tries single values, those of choices first; needs `composing`."""

    def __init__(self, config_dir: str | None) -> None:
        self._config_dir = config_dir
        self._groups = [*group_names(config_dir), "hydra/launcher"]

    def problems(self, overrides: Sequence[str]) -> list[str]:
        """What is wrong with each, and with those that are right by themselves together."""
        chosen = [word for word in overrides if _key(word) in self._groups]
        found = {word: text for word in chosen if (text := self._of_choice(word))}
        right: dict[str, list[str]] = {}
        for word in chosen:
            if word not in found:
                right.setdefault(_key(word), []).append(word)
        known, unknown = dict(right), {_key(word) for word in chosen} - right.keys()
        for word in overrides:
            if word in chosen or _group(word) in unknown:
                continue
            if text := self._with_choices(known, word):
                found[word] = text
            else:
                right.setdefault(_key(word), []).append(word)
        together = [text for row in _rows(right) for text in _check(row)]
        return [*found.values(), *together]

    def _of_choice(self, word: str) -> str | None:
        """Why a choice fails by itself, if it does."""
        error = _error([word])
        if error is None:
            return None
        if word in _LAUNCHERS:
            return f"{word} needs Hydra's launcher for it: pip install {_LAUNCHERS[word]}"
        names = choices(_key(word), self._config_dir)
        if word.partition("=")[2] in names:  # the file is there, and something in it is wrong
            return f"{word}: {first_lines(error.__cause__ or error)}"
        return f"{word}: choose {_key(word)} from {', '.join(names)}"

    def _with_choices(self, known: dict[str, list[str]], word: str) -> str | None:
        """Why `word` fails with the choices that were right, if it does.

        In a sweep over method=…, say, not every method may have the setting: then with which it fails.
        """
        group = _group(word)
        others = [values[-1] for key, values in known.items() if key != group]
        rows = [[*others, own] for own in known.get(group, [])] or [others]
        problems = [self._of_value(row, word) for row in rows]
        first = next(filter(None, problems), None)
        if first is None or all(problems):
            return first
        failing = [own for own, problem in zip(known[group], problems, strict=True) if problem]
        return f"{first} (with {', '.join(failing)})"

    def _of_value(self, good: list[str], word: str) -> str | None:
        """Why composing with `word` fails, if it does."""
        error = _error([*good, word])
        if error is None:
            return None
        names = [*self._groups, *keys(good)]
        if isinstance(error.__cause__ or error, GrammarParseError):
            return f"{word}: ${{ begins an interpolation such as ${{oc.env:HOME}}; write \\${{ for the signs themselves"
        if _key(word) in names or _key(word).startswith("hydra."):
            return f"{word}: {first_lines(error.__cause__ or error)}"
        near = difflib.get_close_matches(_key(word), names, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "--help lists the keys"
        return f"{word}: there is no key {_key(word)}; {hint}"


def _error(overrides: list[str]) -> BaseException | None:
    """What composing with these raises; None where they fit."""
    try:
        from_hydra(compose("config", overrides=overrides))
    except MISTAKES as e:
        return e
    return None


def _check(row: list[str]) -> list[str]:
    """The problems of one configuration."""
    try:
        return check(from_hydra(compose("config", overrides=row)))
    except MISTAKES as e:
        return [first_lines(e)]
