"""The settings of a finished run: under the keys that commands take, and as they are typed.

Conflicts, choices and tables of settings all read a run's configuration by these two functions, so
that each shows the names and values that the others accept.
"""

from __future__ import annotations

import json
from typing import Any

from dora.plain import dotted
from dora.records.identity import configuration
from dora.records.schema import Run


def settings(run: Run) -> dict[str, Any]:
    """Returns the configuration under dotted keys (`method.alpha`), and the arithmetic's number."""
    return {**dotted(configuration(run)), "arithmetic": run["arithmetic"]}


def in_words(value: Any) -> str:
    """Returns a setting as it is typed: `0.002`, `q+v`, `null`."""
    if isinstance(value, list):
        return "+".join(map(in_words, value))
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    # The short spelling only where it is exact: six digits of 1/3 would name another setting.
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
