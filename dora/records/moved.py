"""A run's words as they name it from here: its results folder may have moved since they were typed.

Three folders take part. `home`: the results folder that holds the run, by the path under which it is
looked at now. `typed_home`: what the record has as `results`, often a path relative to the folder in
which the words were typed. `began`: that folder, where the ends of the other two tell it.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from dora.records.packed import results_of
from dora.records.schema import Run
from dora.records.words import with_values

# One item of a list: in quotes, or without a comma. Signs that no item may have within.
_ITEM = re.compile(r"""\s*(?:"[^"]*"|'[^']*'|[^,]+)""")
_SIGNS = re.compile(r"""["'\\[\]{}]""")


def at_home(run: Run, folder: Path) -> tuple[str, ...] | None:
    """Returns the words of the record `run` that name its run from here, or None if it has none.

    `folder`: the run's directory. Where its results folder was moved, or is looked at from another
    folder than the one in which the words were typed, `results=` as typed would name another
    folder, and train the run there anew. Other paths are then named from here as well, as far as
    `results` tells where they were typed and they are there.
    """
    if (words := run.get("words")) is None:
        return None
    home, typed_home = results_of(folder), (run.get("config") or {}).get("results")
    if home is None or not isinstance(typed_home, str) or _same(typed_home, home):
        return tuple(words)
    began = _where_typed(typed_home, home)
    if began is not None:
        words = [_from_here(word, began) for word in words]
    return with_values(words, results=home)


def _same(typed_home: str, home: Path) -> bool:
    """Tells whether a record's results folder, seen from here, is the folder `home`."""
    # ValueError: a record of somebody else's may hold a null byte.
    with contextlib.suppress(OSError, ValueError):
        return Path(typed_home).expanduser().samefile(home)
    return False


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
