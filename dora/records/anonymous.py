"""Records that do not tell whose they are: without hosts and without the folders of a machine."""

from __future__ import annotations

import json
import re
from typing import Any

from dora.files import to_json
from dora.records.artefacts import SEAL, sealed

# An absolute path, or one from a home, with its last part: at the start of a text, or behind what
# comes before a value in a command. A URL is none.
_PATH = re.compile(r"""(?<![^\s='"\[(,])(?:~[^/\s'",)\]]*)?/(?:[^\s'",)\]]*/)?([^/\s'",)\]]+)/?""")


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
    return "host" if key == "host" else _PATH.sub(r"\1", value)
