"""run.json as every tool reads it: bounded in size, of a known version, and of the right types throughout.

A run directory may be damaged, half copied, somebody else's or of a later version of this suite. Whoever reads one
asks here, so that a record is whole wherever it is used: what is said of it then needs no further check.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dora.adapters.budget import Budget
from dora.data.tasks import TASKS
from dora.files import open_own
from dora.records.artefacts import BEFORE, seal_problem
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
    tree,
    with_keys,
    wrong,
)

SCHEMA = 1
NAME = "run.json"
AT_MOST = 16 << 20  # bytes; a record of 400 matrices has 60,000
STATUSES = ("waiting", "running", "stopped", "failed", "diverged", "done")
Run = dict[str, Any]


class NotARecord(ValueError):
    """Says why a run.json cannot be believed: it is damaged, foreign, or of a later version."""


def read(folder: Path) -> Run:
    """run.json of the run directory `folder`, checked against `RECORD`, and against `FINISHED` where it is done.

    Raises FileNotFoundError where there is none, NotARecord where it cannot be believed.
    """
    try:
        with open_own(folder, NAME, AT_MOST) as file:
            content = file.read()
        text = content.decode()
        run = _DECODER.decode(text)
        if "\\ud" in text or "\\uD" in text:  # half of a surrogate pair cannot be printed
            json.dumps(run, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise
    except OSError as e:
        raise NotARecord(e.strerror) from e
    except (ValueError, RecursionError) as e:
        raise NotARecord(f"{type(e).__name__}: {e}") from e
    if (problem := next(_problems(run, content), None)) is not None:
        raise NotARecord(problem)
    return dict(run)


def read_placed(folder: Path) -> Run:
    """`read` of a run directory under results/runs, by whose folders tables name it. Raises NotARecord for a record of
    another place too.
    """
    run = read(folder)
    if (problem := misplaced(run, folder.parts[-7:])) is not None:
        raise NotARecord(problem)
    return run


def misplaced(run: Run, place: tuple[str, ...]) -> str | None:
    """How a record differs from its place under results/runs, by which tables name it; None where it does not.

    `place`: data, task, model, method, budget, key, seed. A record without a configuration is of any place.
    """
    if "config" not in run:
        return None
    data, task, model, method, budget, _, seed = place
    c = run["config"]
    told = {
        "data": (c.get("data"), data),
        "task": (c.get("task"), task),
        "model": (c.get("model"), model),
        "method": (c.get("method", {}).get("name"), method),
        "budget": (_spelled(c.get("budget")), budget),
        "seed": (f"s{c.get('seed')}", seed),
    }
    wrong = [f"{key} {is_!r:.40}" for key, (is_, folder) in told.items() if is_ != folder]
    return f"it is the record of {' and '.join(wrong)}, in another's place" if wrong else None


def _spelled(budget: str | None) -> str:
    """A budget as its folder is named; as it is where it is none."""
    try:
        return "none" if budget is None else str(Budget.parse(budget))
    except ValueError:
        return str(budget)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _result(value: Any) -> bool:
    """Whether it is what one evaluation gave: its step, why it is degenerate, and metrics of at most 1 in size."""
    if (
        not isinstance(value, dict)
        or not WHOLE.fits(value.get("step"))
        or "degenerate" not in value
    ):
        return False
    metrics = (v for k, v in value.items() if k not in ("step", "degenerate"))
    why = value["degenerate"]
    return (why is None or isinstance(why, str)) and all(
        NUMBER.fits(v) and abs(v) <= 1.000001 for v in metrics
    )


def _sums(value: Any) -> bool:
    """Whether it is a file's size and sha256, and perhaps those of the file before."""
    if not isinstance(value, dict) or not {"bytes", "sha256"} <= value.keys() <= {
        "bytes",
        "sha256",
        BEFORE,
    }:
        return False
    known = WHOLE.fits(value["bytes"]) and isinstance(value["sha256"], str)
    return known and (BEFORE not in value or _sums(value[BEFORE]))


def _start(value: Any) -> bool:
    keys = {"step", "time", "host", "device", "world_size", "git"}
    return isinstance(value, dict) and value.keys() >= keys and not any(wrong(value, _START_TREE))


METHOD = ("title", "paper", "budget", "result")
# What may stand in any record, and is of this kind where it does. Other keys are nobody's business.
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
_START = {"step": WHOLE, "time": TIME, **_MACHINE, **_GIT}
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
    "method": with_keys("an object with title, paper, budget and result", *METHOD),
    "method.title": TEXT,
    "method.paper": TEXT | None,
    "method.note": TEXT | None,
    "method.budget": one_of(("exact", "at_most", "none")),
    "method.result": one_of(("adapter", "weights", "model")),
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
    "params.trained_at_once": WHOLE,
    "params.trained_in_all": WHOLE,
    "params.in_peft_file": WHOLE | None,
    "params.adapter_start": WHOLE,
    "params.adapter_end": WHOLE,
    "params.budget": TEXT | None,
    "plan": OBJECT | None,
    "scale": NUMBER | None,
    "ranks": objects("an object of ranks by matrix", COUNTS),
    "evaluations": COUNTS,
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
# What every finished run's record holds, whichever version of the suite trained it.
FINISHED: Mapping[str, frozenset[str]] = {
    name: frozenset(keys)
    for name, keys in {
        "": (
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
        ),
        "config": (
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
        ),
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
    }.items()
}


def _problems(run: Any, content: bytes) -> Iterator[str]:
    """What is wrong with a record, in words; only the first is sure to mean anything."""
    if not isinstance(run, dict):
        yield f"it holds a {type(run).__name__}, which must be an object"
    if run.get("schema") != SCHEMA or type(run["schema"]) is not int:
        said = "no schema" if "schema" not in run else f"schema {run['schema']!r:.40}"
        later = type(run.get("schema")) is int and run["schema"] > SCHEMA
        which = (
            "a later version of this suite wrote it, which can read it"
            if later
            else "it is no run's record"
        )
        yield f"it has {said}, and this version reads schema {SCHEMA}: {which}"
    if run.get("status") not in STATUSES:
        yield f"status is {run.get('status')!r:.40}, which must be one of {', '.join(STATUSES)}"
    if (problem := seal_problem(content, run)) is not None:
        yield problem
    yield from wrong(run, _TREE)
    if run["status"] == "done":
        for name, keys in FINISHED.items():
            if lacking := keys - _at(run, name).keys():
                whole = ", ".join(f"{name}.{key}".lstrip(".") for key in sorted(lacking))
                yield f"it is of a finished run and lacks {whole}"
        yield from _contradictions(run)


def _at(run: Run, path: str) -> Run:
    """The object at a dotted path."""
    held = run
    for key in path.split(".") if path else ():
        held = held[key]
    return held


def _contradictions(run: Run) -> Iterator[str]:
    """How parts of a finished run's record, each of its own kind, contradict each other."""
    start, end = run["ranks"]["start"], run["ranks"]["end"]
    if start.keys() != end.keys():
        odd = sorted(start.keys() ^ end.keys())[0]
        yield f"ranks.start and ranks.end are of other matrices: {odd!r:.60} is in one alone"
    task = TASKS[run["config"]["task"]]
    known = {
        f"{m}{split.removeprefix('dev')}"
        for m in task.metrics
        for split in (*task.dev_splits, "dev_heldout")
    }
    for which, result in run["results"].items():
        if odd := sorted(result.keys() - known - {"step", "degenerate"}):
            yield f"results.{which} has {odd[0]!r:.40}, which is no metric of {task.name}"


_TREE = tree(RECORD)
_START_TREE = tree(_START)
