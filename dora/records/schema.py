"""The keys of run.json: the kind of value that each may hold, and those that a finished run has.

A record is a tree of JSON objects. Paths into it are dotted: `config.method.name`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dora.data.tasks import TASKS
from dora.records.kinds import (
    COUNTS,
    NUMBER,
    OBJECT,
    SETTING,
    TEXT,
    TEXTS,
    TIME,
    WHOLE,
    YES_NO,
    Kind,
    lists,
    objects,
    one_of,
    with_keys,
    wrong,
)

# A run.json that the one reader, `run_json.read`, has checked against RECORD and FINISHED below:
# they say which keys there are. An alias and no TypedDict: results and ranks are read by names that
# are known only at run time (`run["results"][which]`), which a TypedDict refuses.
Run = dict[str, Any]

SCHEMA = 1  # raised when an older version of the suite could no longer read new records
STATUSES = ("waiting", "running", "stopped", "failed", "diverged", "done")
# A file that is replaced after the run was done may be the one `before`: a kill can come between
# the record, which is written first, and the file.
BEFORE = "before"
METHOD = ("title", "paper", "budget", "result")


def _result(value: Any) -> bool:
    """Tells whether a value is the outcome of one evaluation.

    It holds its step, why its predictions are degenerate (or null), and metrics of at most 1 in
    size.
    """
    if not isinstance(value, dict) or "degenerate" not in value:
        return False
    if not WHOLE.fits(value.get("step")):
        return False
    metrics = (v for k, v in value.items() if k not in ("step", "degenerate"))
    why = value["degenerate"]
    # A correlation may exceed 1 by rounding.
    return (why is None or isinstance(why, str)) and all(
        NUMBER.fits(v) and abs(v) <= 1.000001 for v in metrics
    )


def _sums(value: Any) -> bool:
    """Tells whether a value is a file's size and sha256, perhaps with those of the one before."""
    needed, known = {"bytes", "sha256"}, {"bytes", "sha256", BEFORE}
    if not isinstance(value, dict) or not needed <= value.keys() <= known:
        return False
    sound = WHOLE.fits(value["bytes"]) and isinstance(value["sha256"], str)
    return sound and (BEFORE not in value or _sums(value[BEFORE]))


def _start(value: Any) -> bool:
    keys = {"step", "time", "host", "device", "world_size", "git"}
    return isinstance(value, dict) and value.keys() >= keys and not any(wrong(value, _START))


def _client(value: Any) -> bool:
    """Tells whether a value is a client's rows, in all and by class."""
    return (
        isinstance(value, dict)
        and WHOLE.fits(value.get("rows"))
        and isinstance(value.get("classes"), dict)
        and all(map(WHOLE.fits, value["classes"].values()))
    )


def _finished(known: Mapping[str, Kind]) -> dict[str, frozenset[str]]:
    """Returns the keys of `known` that are always there, by the path of the object that holds them."""
    found: dict[str, frozenset[str]] = {}
    for path, kind in known.items():
        if kind.needed:
            parent, _, key = path.rpartition(".")
            found[parent] = found.get(parent, frozenset()) | {key}
    return found


# A federated run's clients, rounds and values sent.
_FEDERATION = (
    "rounds",
    "selected",
    "local_steps",
    "sequential_steps",
    "values_up_a_round",
    "values_down_a_round",
    "values_down_once",
    "values_in_all",
    "bytes_in_all",
)

# The commit of the checkout; null for an installed package.
_GIT = {
    "git": (with_keys("an object with commit and dirty", "commit", "dirty") | None).always,
    "git.commit": TEXT,
    "git.dirty": YES_NO,
}
_MACHINE = {
    "host": TEXT.always,
    "device": TEXT.always,
    "processor": TEXT | None,
    "world_size": WHOLE,
    "versions": objects("an object of versions", TEXT | None).always,
}
_RESULT = Kind("an object with step, degenerate and metrics from -1 to 1", _result)
_TUNING = ("candidates", "seeds", "at_edge")
_HOW = {"compile": YES_NO, "cuda_graphs": YES_NO | None}
_START = {"step": WHOLE, "time": TIME, **_MACHINE, **_GIT, **_HOW}

# The kind of every key that any tool reads. A key may be absent, unless it is `always` there once
# the run is done, whichever version of the suite trained it; keys that are not listed here may hold
# anything.
RECORD: Mapping[str, Kind] = {
    "reason": TEXT | None,
    "arithmetic": WHOLE,
    "config": objects("an object of settings", SETTING).always,
    "config.task": one_of(TASKS).always,
    "config.data": TEXT.always,
    "config.model": TEXT.always,
    "config.method": OBJECT.always,
    "config.method.name": TEXT.always,
    "config.budget": (TEXT | None).always,
    "config.seed": WHOLE.always,
    # As the method's class states them (`dora.methods.base.Method`); one of a user's own may have
    # any name and title.
    "method": with_keys("an object with title, paper, budget and result", *METHOD),
    "method.title": TEXT,
    "method.paper": TEXT | None,
    "method.note": TEXT | None,
    "method.budget": one_of(("exact", "at_most", "none")),
    "method.result": one_of(("adapter", "weights", "modules", "model")),
    "config.target": (TEXTS | None).always,
    "config.lr": NUMBER.always,
    "config.batch_size": WHOLE.always,
    "config.max_length": WHOLE.always,
    "config.head_dropout": (NUMBER | None).always,
    "config.select": TEXT.always,
    "config.precision": TEXT.always,
    "seed": WHOLE.always,
    "words": TEXTS | None,
    "command": TEXT.always,
    "platform": TEXT,
    "embedded": (TEXT | None).always,
    "note": (TEXT | None).always,
    "precision": TEXT,
    "auto_precision": YES_NO,
    "init_from": TEXT | None,
    "sources": lists("a list of runs", OBJECT),
    "tuning": with_keys("an object with candidates, seeds and at_edge", *_TUNING),
    "tuning.file": TEXT,
    "tuning.candidates": WHOLE,
    "tuning.seeds": WHOLE,
    "tuning.at_edge": YES_NO,
    "tuning.length": TEXT,
    "tuning.data": TEXT,
    "tuning.settings": OBJECT,
    "times": OBJECT.always,
    "times.updated": TIME.always,
    "times.started": TIME,
    "times.planned": TIME,
    "progress": with_keys("an object with step and total_steps", "step", "total_steps"),
    "progress.step": WHOLE,
    "progress.total_steps": WHOLE,
    "progress.seconds": NUMBER,
    "clearing": YES_NO,
    "divergences": WHOLE,
    "sealed": YES_NO,
    "sha256": TEXT,
    "starts": lists("a list of starts", Kind("what is known of a start", _start)),
    "resumed_from": lists("a list of steps", WHOLE),
    "total_steps": WHOLE.always,
    "fingerprints": OBJECT.always,
    "fingerprints.data": TEXT.always,
    "fingerprints.model": TEXT.always,
    "fingerprints.method": TEXT,
    "fingerprints.init_from": (TEXT | None).always,
    "fingerprints.sources": TEXT,
    "fingerprints.ranks": TEXT,
    "data": OBJECT.always,
    "data.revision": (TEXT | None).always,
    "data.rows": COUNTS.always,
    "data.rows.dev": WHOLE.always,
    "data.train": WHOLE.always,
    "model": OBJECT.always,
    "model.type": TEXT,
    "model.hub": TEXT | None,
    "model.path": TEXT | None,
    "model.package": TEXT | None,
    "model.revision": (TEXT | None).always,
    "model.random_weights": YES_NO.always,
    "model.segments": YES_NO,
    "params": OBJECT.always,
    "params.trainable": WHOLE.always,
    "params.head": WHOLE.always,
    "params.gates": WHOLE,
    "params.trained_at_once": WHOLE,
    "params.trained_in_all": WHOLE,
    "params.stored": WHOLE,
    "params.adapter_last": WHOLE,
    "params.in_peft_file": WHOLE | None,
    "params.adapter_start": WHOLE.always,
    "params.adapter_end": WHOLE.always,
    "params.budget": (TEXT | None).always,
    "plan": OBJECT | None,
    "federation": with_keys("an object of clients and rounds", "clients", *_FEDERATION),
    "federation.clients": lists(
        "a list of clients", Kind("an object with rows and classes", _client)
    ),
    **{f"federation.{key}": WHOLE for key in _FEDERATION},
    "federation.examples": WHOLE,  # came later: no older record has it
    "scale": NUMBER | None,
    "ranks": objects("an object of ranks by matrix", COUNTS).always,
    "ranks.start": COUNTS.always,
    "ranks.end": COUNTS.always,
    "evaluations": COUNTS.always,
    "evaluations.counted": WHOLE.always,
    "evaluations.from_step": WHOLE.always,
    "warnings": TEXTS,
    "results": objects("an object of the results best and last", _RESULT).always,
    "results.best": _RESULT.always,
    "results.last": _RESULT.always,
    "files": objects("an object of checksums", Kind("bytes and sha256 of a file", _sums)),
    "train_s": NUMBER.always,
    "peak_memory_bytes": WHOLE.always,
    **_MACHINE,
    **_GIT,
}

# The keys of every finished run's record, by the path of the object that holds them ("" is the
# record itself).
FINISHED: Mapping[str, frozenset[str]] = _finished(RECORD)
