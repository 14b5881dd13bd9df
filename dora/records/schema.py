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
    "git": with_keys("an object with commit and dirty", "commit", "dirty") | None,
    "git.commit": TEXT,
    "git.dirty": YES_NO,
}
_MACHINE = {
    "host": TEXT,
    "device": TEXT,
    "processor": TEXT | None,
    "world_size": WHOLE,
    "versions": objects("an object of versions", TEXT | None),
}
_TUNING = ("candidates", "seeds", "at_edge")
_HOW = {"compile": YES_NO, "cuda_graphs": YES_NO | None}
_START = {"step": WHOLE, "time": TIME, **_MACHINE, **_GIT, **_HOW}

# The kind of every key that any tool reads. A key may be absent, unless FINISHED asks for it; keys
# that are not listed here may hold anything.
RECORD: Mapping[str, Kind] = {
    "reason": TEXT | None,
    "arithmetic": WHOLE,
    "config": objects("an object of settings", SETTING),
    "config.task": one_of(TASKS),
    "config.data": TEXT,
    "config.model": TEXT,
    "config.method": OBJECT,
    "config.method.name": TEXT,
    "config.budget": TEXT | None,
    "config.seed": WHOLE,
    # A method of a user's own may have any name and title.
    "method": with_keys("an object with title, paper, budget and result", *METHOD),
    "method.title": TEXT,
    "method.paper": TEXT | None,
    "method.note": TEXT | None,
    "method.budget": one_of(("exact", "at_most", "none")),
    "method.result": one_of(("adapter", "weights", "modules", "model")),
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
    "times": OBJECT,
    "times.updated": TIME,
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
    "total_steps": WHOLE,
    "fingerprints": OBJECT,
    "fingerprints.data": TEXT,
    "fingerprints.model": TEXT,
    "fingerprints.method": TEXT,
    "fingerprints.init_from": TEXT | None,
    "fingerprints.sources": TEXT,
    "fingerprints.ranks": TEXT,
    "data": OBJECT,
    "data.revision": TEXT | None,
    "data.rows": COUNTS,
    "data.train": WHOLE,
    "model": OBJECT,
    "model.type": TEXT,
    "model.hub": TEXT | None,
    "model.path": TEXT | None,
    "model.package": TEXT | None,
    "model.revision": TEXT | None,
    "model.random_weights": YES_NO,
    "model.segments": YES_NO,
    "params": OBJECT,
    "params.trainable": WHOLE,
    "params.head": WHOLE,
    "params.gates": WHOLE,
    "params.trained_at_once": WHOLE,
    "params.trained_in_all": WHOLE,
    "params.stored": WHOLE,
    "params.adapter_last": WHOLE,
    "params.in_peft_file": WHOLE | None,
    "params.adapter_start": WHOLE,
    "params.adapter_end": WHOLE,
    "params.budget": TEXT | None,
    "plan": OBJECT | None,
    "federation": with_keys("an object of clients and rounds", "clients", *_FEDERATION),
    "federation.clients": lists(
        "a list of clients", Kind("an object with rows and classes", _client)
    ),
    **{f"federation.{key}": WHOLE for key in _FEDERATION},
    "federation.examples": WHOLE,  # came later: no older record has it
    "scale": NUMBER | None,
    "ranks": objects("an object of ranks by matrix", COUNTS),
    "evaluations": COUNTS,
    "warnings": TEXTS,
    "results": objects(
        "an object of the results best and last",
        Kind("an object with step, degenerate and metrics from -1 to 1", _result),
    ),
    "files": objects("an object of checksums", Kind("bytes and sha256 of a file", _sums)),
    "train_s": NUMBER,
    "peak_memory_bytes": WHOLE,
    **_MACHINE,
    **_GIT,
}

# The keys of every finished run's record, by the object that holds them ("" is the record itself),
# whichever version of the suite trained it. A key that came later (arithmetic, method, starts,
# files) cannot be asked for: committed studies have records without it.
FINISHED: Mapping[str, frozenset[str]] = {
    "": frozenset(
        (
            "config",
            "seed",
            "embedded",
            "note",
            "command",
            "host",
            "device",
            "versions",
            "git",
            "times",
            "total_steps",
            "fingerprints",
            "data",
            "model",
            "params",
            "ranks",
            "evaluations",
            "results",
            "train_s",
            "peak_memory_bytes",
        )
    ),
    "config": frozenset(
        (
            "task",
            "data",
            "model",
            "method",
            "budget",
            "seed",
            "target",
            "lr",
            "batch_size",
            "max_length",
            "head_dropout",
            "select",
            "precision",
        )
    ),
    "config.method": frozenset(("name",)),
    "times": frozenset(("updated",)),
    "fingerprints": frozenset(("data", "model", "init_from")),
    "data": frozenset(("revision", "rows", "train")),
    "data.rows": frozenset(("dev",)),
    "model": frozenset(("revision", "random_weights")),
    "params": frozenset(("trainable", "head", "adapter_start", "adapter_end", "budget")),
    "ranks": frozenset(("start", "end")),
    "evaluations": frozenset(("counted", "from_step")),
    "results": frozenset(("best", "last")),
}
