"""Spells single settings as Hydra's grammar takes them and as they are typed, and tells their kind."""

from __future__ import annotations

import os
import re
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from dora.configuration.config import PATHS
from dora.configuration.method_choice import TUNE
from dora.records.words import key_of

# Names, which YAML may read as something else: 2024_01 as a number, true as a truth value.
_NAMES = ("data.name", "model.name", "model.revision")  # a commit may look like a number, 12e4567
# One value of a sweep. A comma separates values, unless it stands in quotes around the whole value
# or in ${...}. Hydra's own parser cannot split them: a path such as "a (1)" is no value to it.
_VALUE = re.compile(
    r"""
    \s* (?: '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" ) \s* (?=,|$)
    | (?: \$\{[^}]*\} | [^,] )+
    | (?<=,)(?=,|$) | ^(?=,|$)  # nothing, beside a comma or alone
""",
    re.VERBOSE | re.DOTALL,
)
# Hydra's functions for the values of a sweep.
_FUNCTION = re.compile(r"(?:choice|range|interval|glob|sort|shuffle|tag)\(.*\)", re.DOTALL)


def in_grammar(word: str, sweeping: bool) -> str:
    """Returns a setting as Hydra's grammar takes it.

    Puts a path or a name in quotes and expands its `~`; puts a list in brackets. In a sweep commas
    separate paths, unless they stand in quotes, and a function such as choice() is left to Hydra.
    `method._tune_=null` fits every method, also one whose file has no such key.
    """
    key, equals, value = word.partition("=")
    if not equals:
        return word
    if key == f"method.{TUNE}" and value.lower() == "null":
        return f"++{word}"
    if key == "target" and not sweeping and re.fullmatch("[a-z0-9]+(,[a-z0-9]+)+", value):
        return f"target=[{value}]"  # one value of several parts; in a sweep, several runs
    if key_of(word) not in (*PATHS, *_NAMES) or (sweeping and _FUNCTION.fullmatch(value)):
        return word
    values = [part.strip() for part in _VALUE.findall(value)] if sweeping else [value]
    return f"{key}={','.join(map(_path, values))}"


def _path(text: str) -> str:
    """Returns one path, in Hydra's quotes if it needs them.

    Nothing and null name no path, and stay as they are.
    """
    if text == "" or text.lower() == "null":
        return text
    given = _value(text)
    # Hydra would skip a space before quotes; the path's own name begins with it.
    in_quotes = isinstance(given, QuotedString) and text[0] in "'\""
    # No shell expands `~` in quotes, and not every shell does after `=`.
    path = os.path.expanduser(given.text if in_quotes else text)
    return path if _value(path) == path else quoted(path)


def plain(word: str) -> str:
    """Returns a setting that Hydra's sweeper wrote as a user would type it.

    The sweeper puts a backslash before each special character of a path that it has read.
    """
    key, _, value = word.partition("=")
    given = _value(value) if key_of(word) in (*PATHS, *_NAMES) else None
    text = given.text if isinstance(given, QuotedString) else given
    if not isinstance(text, str):
        return word
    return f"{key}={text if _value(text) == text else quoted(text)}"


def quoted(text: str) -> str:
    """Returns a text as one value in Hydra's double quotes; single ones are for the shell."""
    return QuotedString(text, Quote.double).with_quotes()


def _value(text: str) -> Any:
    """Returns the value that Hydra reads in a text, None if its grammar cannot read it."""
    try:
        # `value()` would remove the quotes, and with them the difference between 1 and "1".
        return OverridesParser.create().parse_override(f"path={text}")._value
    except HydraException:
        return None


def is_sweep(word: str) -> bool:
    """Tells whether a setting has several values; False for a word that Hydra cannot read."""
    try:
        return OverridesParser.create().parse_override(word).is_sweep_override()
    except HydraException:
        return False


def is_setting(word: str) -> bool:
    """Tells whether a word has a key and a value."""
    return key_of(word) != "" and "=" in word and not takes_away(word)


def takes_away(word: str) -> bool:
    """Tells whether a word deletes a key, as `~key` does for Hydra.

    A run of this suite has every key, and Hydra's own messages about `~key` are of its own trees.
    """
    return word.startswith("~")


def states_method(word: str) -> bool:
    """Tells whether a word gives a method's name, which its file alone may state.

    `method.name=lora` would train the chosen method and record it as LoRA.
    """
    return key_of(word) == "method.name"
