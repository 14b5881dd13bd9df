"""Records that do not tell whose they are: without hosts and without the folders of a machine."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from typing import Any

from dora.files import to_json
from dora.records.artefacts import SEAL, sealed

# An absolute path, or one from a home, with its last part: at the start of a text, or behind what
# comes before a value in a command. A URL is none.
_PATH = re.compile(r"""(?<![^\s='"\[(,])(?:~[^/\s'",)\]]*)?/(?:[^\s'",)\]]*/)?([^/\s'",)\]]+)/?""")
# The last part of a home tells whose it is.
_HOME = re.compile("/(?:home|Users)/[^/]+/?")
_ROOTED = re.compile("(?:~[^/]*)?/[^/]")
_KEY = re.compile(r"[+~-]*[\w./@-]+=")


def anonymous(text: str) -> str:
    """Returns the text of a run.json with paths by their last part and `host` for every host.

    Sealed anew if it was sealed. Raises ValueError where it is no JSON object.
    """
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("run.json holds no record")
    found = {key: _without_places(value, key) for key, value in record.items()}
    return sealed(found) if SEAL in record else to_json(found)


def _without_places(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _without_places(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_places(part, key) for part in value]
    if not isinstance(value, str):
        return value
    if key == "host":
        return "host"
    if key == "command":
        # By its words: a folder's name may hold what ends a path in running text, such as a space.
        with contextlib.suppress(ValueError):  # quotes that are not closed
            return shlex.join(map(_word, shlex.split(value)))
    return _word(value)


def _word(text: str) -> str:
    """Returns a path, or KEY=VALUE whose value is a path or a list of paths, by its last part.

    Paths within any other text are shortened as far as they can be told from it.
    """
    key, equals, value = text.partition("=") if _KEY.match(text) else ("", "", text)
    quote = value[0] if value[:1] in ("'", '"') and value[:1] == value[-1:] else ""
    inside = value[1:-1] if quote else value
    if inside.startswith("[") and inside.endswith("]"):
        inside = f"[{','.join(map(_last, inside[1:-1].split(',')))}]"
    return _PATH.sub(_last_part, f"{key}{equals}{quote}{_last(inside)}{quote}")


def _last_part(path: re.Match[str]) -> str:
    """Returns the last part of a path that _PATH has found."""
    return "home" if _HOME.fullmatch(path[0]) else path[1]


def _last(text: str) -> str:
    """Returns the last part of a path from the root or from a home; any other text as it is.

    A home itself is `home`.
    """
    if _HOME.fullmatch(text):
        return "home"
    return text.rstrip("/").rpartition("/")[2] if _ROOTED.match(text) else text
