"""Finished runs as flat rows, one a run, for whoever analyses them with tools of their own."""

from __future__ import annotations

from typing import Any

from dora.plain import dotted, with_commas
from dora.records.place import place_of
from dora.records.schema import Run

# Keys of run.json that a row has as they are.
_PLAIN = (
    "total_steps",
    "train_s",
    "peak_memory_bytes",
    "device",
    "processor",
    "world_size",
    "host",
    "arithmetic",
    "embedded",
    "note",
    "command",
)


def as_row(run: Run) -> dict[str, Any]:
    """Returns a finished run as one row of numbers and texts.

    Its place; `best.…` and `last.…`, both evaluations' scores as fractions with their steps;
    `params.…`, as docs/record.md explains them; `config.…`, every setting; then what it took and where
    it was made. A list of values is one text, with commas. `run`: a record, with its `folder`.
    """
    row: dict[str, Any] = place_of(run["folder"])._asdict()
    row["seed"] = run["seed"]
    scores = {part: run["results"][part] for part in ("best", "last")}
    row |= dotted({**scores, "params": run["params"], "config": run["config"]})
    row |= {key: run.get(key) for key in _PLAIN}
    row |= dotted({"tuning": run.get("tuning") or {}})
    git = run.get("git") or {}
    times = run.get("times", {})
    return {
        **{key: with_commas(value) for key, value in row.items()},
        "commit": git.get("commit"),
        "dirty": git.get("dirty"),
        "started": times.get("started"),
        "finished": times.get("finished"),
    }
