"""run.json as every tool reads it: bounded in size, of a known version, and of the right types throughout.

A run directory may be damaged, half copied, somebody else's or of a later version of this suite. Whoever reads one
asks here, so that a record is whole wherever it is used: what is said of it then needs no further check.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dora.artefacts import BEFORE, seal_problem
from dora.data.tasks import TASKS
from dora.files import open_own

SCHEMA = 1
NAME = "run.json"
AT_MOST = 16 << 20  # bytes; a record of 400 matrices has 60,000
STATUSES = ("waiting", "running", "stopped", "failed", "diverged", "done")
Run = dict[str, Any]
Tree = dict[str, tuple["Kind", Any]]


class NotARecord(ValueError):
    """Says why a run.json cannot be believed: it is damaged, foreign, or of a later version."""


def read(folder: Path) -> Run:
    """run.json of the run directory `folder`, checked against `RECORD`, and against `FINISHED` where it is done.

    Raises FileNotFoundError where there is none, NotARecord where it cannot be believed.
    """
    try:
        with open_own(folder, NAME, AT_MOST) as file:
            text = file.read().decode()
        run = json.loads(text, parse_constant=_refuse)
        if "\\ud" in text or "\\uD" in text:  # half of a surrogate pair cannot be printed
            json.dumps(run, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise
    except OSError as e:
        raise NotARecord(e.strerror) from e
    except (ValueError, RecursionError) as e:
        raise NotARecord(f"{type(e).__name__}: {e}") from e
    if (problem := next(_problems(run), None)) is not None:
        raise NotARecord(problem)
    return dict(run)


def misplaced(run: Run, place: tuple[str, ...]) -> str | None:
    """How a record differs from its place under results/runs, by which tables name it; None where it does not.

    `place`: data, task, model, method, budget, key, seed. A record without a configuration is of any place.
    """
    if "config" not in run:
        return None
    data, task, model, method, _, _, seed = place
    c = run["config"]
    told = {"data": (c.get("data"), data), "task": (c.get("task"), task), "model": (c.get("model"), model),
            "method": (c.get("method", {}).get("name"), method), "seed": (f"s{c.get('seed')}", seed)}  # fmt: skip
    wrong = [f"{key} {is_!r:.40}" for key, (is_, folder) in told.items() if is_ != folder]
    return f"it is the record of {' and '.join(wrong)}, in another's place" if wrong else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


# --- kinds of values -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of value: what it is in words, whether a value is of it, and the kind of all that it holds, if any."""

    words: str
    fits: Callable[[Any], bool]
    of: Kind | None = None

    def __or__(self, other: None) -> Kind:
        return Kind(f"{self.words} or null", lambda value: value is None or self.fits(value), self.of)

    def problem(self, at: str, value: Any) -> str | None:
        """What is wrong with the value at a path, None where it is of this kind."""
        if not self.fits(value):
            return f"{at} is {value!r:.60}, which must be {self.words}"
        if self.of is None or value is None:
            return None
        held = value.items() if isinstance(value, dict) else tuple(enumerate(value))
        if self.of.of is None and all(self.of.fits(one) for _, one in held):  # as nearly always
            return None
        return next((text for key, one in held if (text := self.of.problem(f"{at}.{key}", one))), None)


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _time(value: Any) -> bool:
    try:
        return datetime.datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _plain(value: Any) -> bool:
    """Whether it is one setting: nothing, a word, a number, or a list of these."""
    if isinstance(value, list):
        return all(isinstance(one, str) or _number(one) for one in value)
    return value is None or isinstance(value, str | bool) or _number(value)


def _setting(value: Any) -> bool:
    """Whether it is a setting, or the settings of a method."""
    return all(map(_plain, value.values())) if isinstance(value, dict) else _plain(value)


def _result(value: Any) -> bool:
    """Whether it is what one evaluation gave: its step, why it is degenerate, and metrics of at most 1 in size."""
    if not isinstance(value, dict) or not _whole(value.get("step")) or "degenerate" not in value:
        return False
    metrics = (v for k, v in value.items() if k not in ("step", "degenerate"))
    text = value["degenerate"]
    return (text is None or isinstance(text, str)) and all(_number(v) and abs(v) <= 1.000001 for v in metrics)


def _sums(value: Any) -> bool:
    """Whether it is a file's size and sha256, and perhaps those of the file before."""
    if not isinstance(value, dict) or not {"bytes", "sha256"} <= value.keys() <= {"bytes", "sha256", BEFORE}:
        return False
    known = _whole(value["bytes"]) and isinstance(value["sha256"], str)
    return known and (BEFORE not in value or _sums(value[BEFORE]))


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _list(value: Any) -> bool:
    return isinstance(value, list)


TEXT = Kind("a text", lambda value: isinstance(value, str))
WHOLE = Kind("a whole number from 0", _whole)
NUMBER = Kind("a finite number", _number)
YES_NO = Kind("true or false", lambda value: isinstance(value, bool))
TIME = Kind("a time as in 2026-01-31T12:00:00+00:00", _time)
OBJECT = Kind("an object", _object)
TEXTS = Kind("a list of texts", _list, TEXT)
PROGRESS = Kind(
    "an object with step and total_steps",
    lambda value: isinstance(value, dict) and {"step", "total_steps"} <= value.keys(),
)
GIT = Kind(
    "an object with commit and dirty", lambda value: _object(value) and {"commit", "dirty"} <= value.keys()
)
COUNTS = Kind("an object of whole numbers", _object, WHOLE)
SETTINGS = Kind("an object of settings", _object, Kind("a setting", _setting))
RESULT = Kind("an object with step, degenerate and metrics from -1 to 1", _result)
START = Kind(
    "what is known of a start",
    lambda value: _object(value) and not any(_wrong(value, _START_TREE)) and value.keys() >= _START_KEYS,
)


# What may stand in any record, and is of this kind where it does. Other keys are nobody's business.
_GIT = {"git": GIT | None, "git.commit": TEXT, "git.dirty": YES_NO}
_MACHINE = {
    "host": TEXT,
    "device": TEXT,
    "processor": TEXT | None,
    "world_size": WHOLE,
    "versions": Kind("an object of versions", _object, TEXT | None),
}
_START_KEYS: set[str] = {"step", "time", "host", "device", "world_size", "git"}
_START = {"step": WHOLE, "time": TIME, **_MACHINE, **_GIT}
RECORD: Mapping[str, Kind] = {
    "reason": TEXT | None,
    "arithmetic": WHOLE,
    "config": SETTINGS,
    "config.task": Kind(f"one of {', '.join(TASKS)}", lambda value: isinstance(value, str) and value in TASKS),
    "config.data": TEXT,
    "config.model": TEXT,
    "config.method": OBJECT,
    "config.method.name": TEXT,
    "config.budget": TEXT | None,
    "config.seed": WHOLE,
    "config.target": TEXTS | None,
    "config.lr": NUMBER,
    "config.batch_size": WHOLE,
    "config.max_length": WHOLE,
    "config.head_dropout": NUMBER | None,
    "config.select": TEXT,
    "config.precision": TEXT,
    "seed": WHOLE,
    "words": TEXTS | None,
    "command": TEXT,
    "platform": TEXT,
    "embedded": TEXT | None,
    "note": TEXT | None,
    "init_from": TEXT | None,
    "times": OBJECT,
    "times.updated": TIME,
    "times.started": TIME,
    "progress": PROGRESS,
    "progress.step": WHOLE,
    "progress.total_steps": WHOLE,
    "progress.seconds": NUMBER,
    "clearing": YES_NO,
    "divergences": WHOLE,
    "starts": Kind("a list of starts", _list, START),
    "resumed_from": Kind("a list of steps", _list, WHOLE),
    "total_steps": WHOLE,
    "fingerprints": OBJECT,
    "fingerprints.data": TEXT,
    "fingerprints.model": TEXT,
    "fingerprints.init_from": TEXT | None,
    "data": OBJECT,
    "data.revision": TEXT | None,
    "data.rows": COUNTS,
    "data.train": WHOLE,
    "model": OBJECT,
    "model.hub": TEXT | None,
    "model.path": TEXT | None,
    "model.revision": TEXT | None,
    "model.random_weights": YES_NO,
    "params": OBJECT,
    "params.trainable": WHOLE,
    "params.head": WHOLE,
    "params.gates": WHOLE,
    "params.adapter_start": WHOLE,
    "params.adapter_end": WHOLE,
    "params.budget": TEXT | None,
    "plan": OBJECT | None,
    "scale": NUMBER | None,
    "ranks": Kind("an object of ranks by matrix", _object, COUNTS),
    "evaluations": COUNTS,
    "results": Kind("an object of the results best and last", _object, RESULT),
    "files": Kind("an object of checksums", _object, Kind("bytes and sha256 of a file", _sums)),
    "train_s": NUMBER,
    "peak_memory_bytes": WHOLE,
    **_MACHINE,
    **_GIT,
}  # fmt: skip
# What every finished run's record holds, whichever version of the suite trained it.
FINISHED: Mapping[str, tuple[str, ...]] = {
    "": ("config", "seed", "embedded", "note", "command", "host", "device", "versions", "git", "times", "total_steps",
         "fingerprints", "data", "model", "params", "ranks", "evaluations", "results", "train_s", "peak_memory_bytes"),
    "config": ("task", "data", "model", "method", "budget", "seed", "target", "lr", "batch_size", "max_length",
               "head_dropout", "select", "precision"),
    "config.method": ("name",),
    "times": ("updated",),
    "fingerprints": ("data", "model", "init_from"),
    "data": ("revision", "rows", "train"),
    "data.rows": ("dev",),
    "model": ("revision", "random_weights"),
    "params": ("trainable", "head", "adapter_start", "adapter_end", "budget"),
    "ranks": ("start", "end"),
    "evaluations": ("counted", "from_step"),
    "results": ("best", "last"),
}  # fmt: skip


def _problems(run: Any) -> Iterator[str]:
    """What is wrong with a record, in words; only the first is sure to mean anything."""
    if not isinstance(run, dict):
        yield f"it holds a {type(run).__name__}, which must be an object"
    if run.get("schema") != SCHEMA or type(run["schema"]) is not int:
        said = "no schema" if "schema" not in run else f"schema {run['schema']!r:.40}"
        later = type(run.get("schema")) is int and run["schema"] > SCHEMA
        which = (
            "a later version of this suite wrote it, which can read it" if later else "it is no run's record"
        )
        yield f"it has {said}, and this version reads schema {SCHEMA}: {which}"
    if run.get("status") not in STATUSES:
        yield f"status is {run.get('status')!r:.40}, which must be one of {', '.join(STATUSES)}"
    if (problem := seal_problem(run)) is not None:
        yield problem
    yield from _wrong(run, _TREE)
    if run["status"] == "done":
        for name, keys in FINISHED.items():
            if lacking := set(keys) - _at(run, name).keys():
                whole = ", ".join(f"{name}.{key}".lstrip(".") for key in sorted(lacking))
                yield f"it is of a finished run and lacks {whole}"
        yield from _contradictions(run)


def _at(run: Run, path: str) -> Run:
    """The object at a dotted path."""
    return functools.reduce(lambda held, key: held[key], filter(None, path.split(".")), run)


def _contradictions(run: Run) -> Iterator[str]:
    """How parts of a finished run's record, each of its own kind, contradict each other."""
    start, end = run["ranks"]["start"], run["ranks"]["end"]
    if start.keys() != end.keys():
        odd = sorted(start.keys() ^ end.keys())[0]
        yield f"ranks.start and ranks.end are of other matrices: {odd!r:.60} is in one alone"
    task = TASKS[run["config"]["task"]]
    known = {
        f"{m}{split.removeprefix('dev')}" for m in task.metrics for split in (*task.dev_splits, "dev_heldout")
    }
    for which, result in run["results"].items():
        if odd := sorted(result.keys() - known - {"step", "degenerate"}):
            yield f"results.{which} has {odd[0]!r:.40}, which is no metric of {task.name}"


def _tree(kinds: Mapping[str, Kind]) -> Tree:
    """The kinds by the first part of their paths, so that a record is gone through once."""
    tree: Tree = {}
    for path, kind in kinds.items():
        first, _, rest = path.partition(".")
        if not rest:
            tree[first] = (kind, {})
    for first, (kind, _) in tree.items():
        inside = {p.partition(".")[2]: k for p, k in kinds.items() if p.startswith(f"{first}.")}
        tree[first] = (kind, _tree(inside))
    return tree


def _wrong(record: Mapping[str, Any], tree: Tree, at: str = "") -> Iterator[str]:
    """Every value that is not of its kind."""
    for key, value in record.items():
        if key in tree:
            kind, inside = tree[key]
            if (problem := kind.problem(f"{at}{key}", value)) is not None:
                yield problem
            elif inside and value is not None:
                yield from _wrong(value, inside, f"{at}{key}.")


_TREE: Tree = _tree(RECORD)
_START_TREE: Tree = _tree(_START)
