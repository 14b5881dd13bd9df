"""The search that missing runs of a tuned study need first: its file has no rate for their tasks."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from dora.configuration import tuned
from dora.configuration.tuned import Key
from dora.errors import UserError
from dora.records.gaps import for_task
from dora.records.moved import at_home
from dora.records.schema import Run
from dora.records.words import Foreign, as_command, key_of, typed, with_values

# A search sets these itself, or has its own.
_OF_A_SEARCH = ("lr", "seed", "select", "rates_from", "results")


def untuned(run: Run, folder: Path, tasks: Sequence[str]) -> list[str]:
    """Returns those of `tasks` for which the run's search has no rate.

    Empty where the run's rate is from no search, where its file cannot be read, and where the run's
    words cannot be typed for another task.
    """
    own = str(run["config"]["task"])
    with contextlib.suppress(Foreign, UserError):
        words = typed(at_home(run, folder), folder) if run.get("words") else ()
        file = _file(words)
        if file is not None and "tuning" in run and file.is_file():
            held = tuned.read(file)
            found = [task for task in tasks if tuned.found(held, _key(run, task)) is None]
            # An experiment of one task is typed otherwise for each.
            return [task for task in found if f"task={task}" in (for_task(words, own, task) or ())]
    return []


def search_first(run: Run, folder: Path, tasks: Sequence[str]) -> list[str]:
    """Returns lines with the search of these tasks' rates, and the sweep that trains their runs.

    `tasks`: what `untuned` returned for the run.
    """
    own = str(run["config"]["task"])
    words = for_task(typed(at_home(run, folder), folder), own, ",".join(tasks)) or ()
    file = _file(words)
    assert file is not None  # or `untuned` would have returned no task
    home = Path(next((w.partition("=")[2] for w in words if key_of(w) == "results"), "results"))
    # A file of another name stays as it is: a search writes its own beside the runs.
    if file.parts[-2:] == ("search", "choices.json"):
        home = file.parent.parent
    search = [word for word in words if key_of(word) not in _OF_A_SEARCH]
    search += [f"results={home}"]
    if (found := tuned.found(tuned.read(file), _key(run, own))) is not None:
        seeds = ",".join(map(str, found.seeds))
        search += ["--candidates", str(found.candidates), "--seeds", seeds]
    study = with_values(words, rates_from=home / "search" / "choices.json")
    return [
        f"{file} has no rate for {', '.join(tasks)}: search them first, with "
        f"python -m dora.tune {shlex.join(search)}",
        f"then train them: {as_command(['-m', *study])}",
    ]


def _file(words: Sequence[str]) -> Path | None:
    """Returns the file of the search that a run's words name, or None."""
    named = [w.partition("=")[2].strip("\"'") for w in words if key_of(w) == "rates_from"]
    return Path(named[-1]).expanduser() if named and named[-1] not in ("", "null") else None


def _key(run: Run, task: str) -> Key:
    """Returns the key that the search of a run like this one on `task` has."""
    c = run["config"]
    return Key(c["model"], task, c["method"]["name"], c["budget"], tuned.length(c), c["data"])
