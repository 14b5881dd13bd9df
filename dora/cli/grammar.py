"""Reads single words of a command line with Hydra's grammar, and says what is wrong with them."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from dora.cli.spelling import is_setting, quoted, states_method, takes_away
from dora.errors import ALL_KEYS
from dora.records.words import key_of

# The first line of that part of Hydra's and OmegaConf's messages which speaks of internals.
_INTERNAL = re.compile(
    r"(full_key|object_type|reference_type)[:=]|set HYDRA|Config search|See https"
)


def malformed(word: str) -> str | None:
    """Returns the message for a word that cannot be a setting, None for a setting.

    Needs `composing`: `glob()` in a value asks for the choices that there are.
    """
    key, _, value = word.partition("=")
    if takes_away(word) and (name := key_of(word)):
        # A choice has a file, and no null.
        is_choice = GlobalHydra.instance().config_loader().get_group_options(name)
        way = f"{name}=NAME for another" if is_choice else f"{name}=null"
        return f"{word}: no key is taken away; write {way}, or leave it out: its default counts"
    if not is_setting(word):
        return f"{word}: settings are written key=value, such as task=sst2"
    if states_method(word):
        return f"{word}: a method's file states its name; write method={value or 'NAME'}"
    try:
        override = _parsed(word)
    except HydraException:
        return f"{word}: {_unread(key, value)}"
    if not override.is_sweep_override():
        return None
    if not override.is_discrete_sweep():
        return f"{word}: this sweeper takes lists (1,2), range() and choice(), no interval()"
    try:
        none = not list(override.sweep_iterator())
    except (HydraException, ValueError) as e:  # ValueError: Python's own range() with a step of 0
        return f"{word}: {first_lines(e)}"
    return f"{word}: there is no value in it" if none else None


def _unread(key: str, value: str) -> str:
    """Says why Hydra's grammar cannot read `key=value`."""
    # A value that is surely right: if this fails as well, the key is wrong.
    try:
        _parsed(f"{key}=1")
    except HydraException:
        return f"{key} is no key; {ALL_KEYS}"
    if re.search(r"(^|,)\s*(,|$)", value):
        return "a value is missing beside a comma"
    whole = shlex.quote(f"{key}={quoted(value)}")
    return (
        f"brackets, quotes and some other signs mean something to Hydra; as one value write {whole}"
    )


def single_values(word: str) -> list[str]:
    """Splits `seed=1,2` into seed=1 and seed=2; returns any other word as it is."""
    override = _parsed(word)
    if not override.is_sweep_override():
        return [word]
    key = word.partition("=")[0]  # with its plus sign
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def first_lines(error: BaseException) -> str:
    """Returns Hydra's message without its traceback and its trailing hints about internals."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Names of types, and every folder that Hydra has searched, stand last.
    return " ".join(takewhile(lambda line: not _INTERNAL.match(line), lines))


def _parsed(word: str) -> Override:
    """Returns a word as Hydra reads it. Raises HydraException."""
    # Several at once would be no faster, and an error would not say which word it is about.
    loader = GlobalHydra.instance().config_loader()
    (override,) = OverridesParser.create(config_loader=loader).parse_overrides([word])
    return override
