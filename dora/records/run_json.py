"""The one reader of run.json: bounded in size, of a known version, of the right types throughout.

A run directory may be damaged, half copied, somebody else's or of a later version of this suite.
Every tool reads records here, so that whatever the schema says of a record needs no further check.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dora.adapters.budget import Budget
from dora.checked_files import from_json, open_own
from dora.data.tasks import TASKS, score_key
from dora.errors import reason
from dora.plain import is_whole
from dora.records.about_method import NO_BUDGET
from dora.records.artefacts import seal_problem
from dora.records.identity import key_of
from dora.records.kinds import wrong
from dora.records.older import upgraded
from dora.records.place import Place, has_place, place_of
from dora.records.schema import FINISHED, RECORD, SCHEMA, STATUSES, Run

NAME = "run.json"
AT_MOST = 16 << 20  # bytes; a record of 400 matrices has 60,000


class NotARecord(ValueError):
    """Says why a run.json cannot be believed: it is damaged, foreign, or of a later version."""


def read(folder: Path) -> Run:
    """Returns run.json of the run directory `folder`, checked against RECORD, with today's keys.

    The record of a run that is done is checked against FINISHED too. Raises FileNotFoundError where
    there is none, NotARecord where it cannot be believed.
    """
    try:
        return parsed(content(folder))
    except FileNotFoundError:
        raise
    except OSError as e:
        raise NotARecord(e.strerror) from e


def content(folder: Path) -> bytes:
    """Returns the bytes of run.json. Raises OSError where there is none that may be read."""
    with open_own(folder, NAME, AT_MOST) as file:
        return file.read()


def parsed(content: bytes) -> Run:
    """Returns the record that these bytes of a run.json hold, checked as by `read`."""
    try:
        text = content.decode()
        run = from_json(text)
        # Half of a surrogate pair is legal JSON, but cannot be printed. Encoding the whole record
        # is slow, so only a text that spells a surrogate (an emoji does so too) is tried.
        if "\\ud" in text or "\\uD" in text:
            json.dumps(run, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as e:  # brackets within brackets end in RecursionError
        raise NotARecord(reason(e)) from e
    if (problem := next(_problems(run, content), None)) is not None:
        raise NotARecord(problem)
    return upgraded(run)


def read_placed(folder: Path) -> Run:
    """Returns `read` of a run directory, by whose folders under results/runs tables name the run.

    Raises NotARecord for the record of another place, too. A directory that was taken out of its
    results folder has no place.
    """
    run = read(folder)
    if has_place(folder) and (problem := misplaced(run, place_of(folder))) is not None:
        raise NotARecord(problem)
    return run


def read_done(folder: Path) -> Run | None:
    """Returns run.json of a run that is done, None otherwise.

    A missing record, one that cannot be believed, and that of another run count as not done.
    """
    try:
        run = read_placed(folder)
    except (FileNotFoundError, NotARecord):
        return None
    return run if run["status"] == "done" else None


def misplaced(run: Run, place: Place) -> str | None:
    """Returns how a record differs from its place under results/runs, or None where it does not.

    A record without a configuration fits any place.
    """
    if "config" not in run:
        return None
    c = run["config"]
    told = {
        "data": c.get("data"),
        "task": c.get("task"),
        "model": c.get("model"),
        "method": c.get("method", {}).get("name"),
        "budget": _spelled(c.get("budget")),
        "key": key_of(run) or place.key,
        "seed": f"s{c.get('seed')}",
    }
    differing = [
        f"{key} {value!r:.40}" for key, value in told.items() if value != getattr(place, key)
    ]
    if not differing:
        return None
    return f"it is the record of {' and '.join(differing)}, in another's place"


def _spelled(budget: str | None) -> str:
    """Returns the name of a budget's folder: `300000` for `0.3M`; any other text as it is."""
    try:
        return NO_BUDGET if budget is None else str(Budget.parse(budget))
    except ValueError:
        return str(budget)


def _problems(run: Any, content: bytes) -> Iterator[str]:
    """Yields the problems of a record, in words.

    Only the first is sure to mean anything: each check relies on those before it. The reader asks
    for no more than that one.
    """
    if not isinstance(run, dict):
        yield f"it holds a {type(run).__name__}, which must be an object"
    if not is_whole(run.get("schema"), SCHEMA, SCHEMA):
        yield _foreign(run)
    if run.get("status") not in STATUSES:
        yield f"status is {run.get('status')!r:.40}, which must be one of {', '.join(STATUSES)}"
    if (problem := seal_problem(content, run)) is not None:
        yield problem
    yield from wrong(run, RECORD)
    if run["status"] == "done":
        for name, keys in FINISHED.items():
            if lacking := keys - _at(run, name).keys():
                whole = ", ".join(f"{name}.{key}".lstrip(".") for key in sorted(lacking))
                yield f"it is of a finished run and lacks {whole}"
        yield from _contradictions(run)


def _foreign(run: Run) -> str:
    """Says which schema a record has, and who could read it."""
    said = "no schema" if "schema" not in run else f"schema {run['schema']!r:.40}"
    which = "it is no run's record"
    if is_whole(run.get("schema"), SCHEMA + 1):
        which = "a later version of this suite wrote it, which can read it"
    return f"it has {said}, and this version reads schema {SCHEMA}: {which}"


def _at(run: Run, path: str) -> Run:
    """Returns the object at a dotted path."""
    held = run
    for key in path.split(".") if path else ():
        held = held[key]
    return held


def _contradictions(run: Run) -> Iterator[str]:
    """Yields the contradictions between parts of a finished run's record, each sound by itself."""
    start = run["ranks"]["start"]
    for which in ("end", "last"):  # tables and figures look them up by the same names
        ranks = run["ranks"].get(which, start)
        if start.keys() != ranks.keys():
            odd = sorted(start.keys() ^ ranks.keys())[0]
            yield f"ranks.start and ranks.{which} are of other matrices: {odd!r:.60} is in one alone"
    task = TASKS[run["config"]["task"]]
    splits = (*task.dev_splits, "heldout")
    known = {score_key(metric, split) for metric in task.metrics for split in splits}
    for which, result in run["results"].items():
        if odd := sorted(result.keys() - known - {"step", "degenerate"}):
            yield f"results.{which} has {odd[0]!r:.40}, which is no metric of {task.name}"
