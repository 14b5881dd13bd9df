"""Finished runs as flat rows, one a run, for whoever analyses them with tools of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dora.plain import dotted, with_commas
from dora.records.about_starts import dirty
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
# Keys above that may differ between the starts of a run that was taken up again.
_OF_STARTS = ("device", "processor", "world_size", "host")


def as_row(run: Run) -> dict[str, Any]:
    """Returns a finished run as one row of numbers and texts.

    Its place; `best.…` and `last.…`, both evaluations' scores as fractions with their steps;
    `params.…`, and `federation.…` of a federated run, as docs/record.md explains them; `config.…`,
    every setting; then what it took and where it was made, by all starts of the run. Several values
    are one text, with commas. `run`: a record, with its `folder`.
    """
    row: dict[str, Any] = place_of(run["folder"])._asdict()
    row["seed"] = run["seed"]
    scores = {part: run["results"][part] for part in ("best", "last")}
    row |= dotted({**scores, "params": run["params"], "config": run["config"]})
    row |= {key: run.get(key) for key in _PLAIN}
    row |= dotted({"tuning": run.get("tuning") or {}})
    rounds = {k: v for k, v in run.get("federation", {}).items() if k != "clients"}
    row |= dotted({"federation": rounds})
    row |= {key: _of_starts(start.get(key) for start in run["starts"]) for key in _OF_STARTS}
    git = [start["git"] or {} for start in run["starts"]]
    return {
        **{key: with_commas(value) for key, value in row.items()},
        "commit": with_commas(_of_starts(each.get("commit") for each in git)),
        "dirty": dirty(run),
        "started": run["times"].get("started"),
        "finished": run["times"].get("finished"),
    }


def _of_starts(values: Iterable[Any]) -> Any:
    """Returns the value of all starts: a list if they differ, None if no start has one."""
    known = list(dict.fromkeys(value for value in values if value is not None))
    return known if len(known) > 1 else next(iter(known), None)
