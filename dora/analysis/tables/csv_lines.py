"""The lines of the CSV files, for whoever analyses runs with tools of their own.

A line is a cell of the table of scores, a difference, or a run. Its numbers are not rounded.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from typing import Any

from dora.analysis.comparison import differences
from dora.analysis.table import AVERAGE, Table
from dora.plain import dotted, with_commas
from dora.records.about_method import adapter_parameters
from dora.records.about_starts import dirty
from dora.records.place import Row, place_of
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


def score_lines(table: Table) -> Iterator[dict[str, Any]]:
    """Yields a line for each cell and each average."""
    for row in table.rows:
        runs = table.runs_of(row)
        sizes = [adapter_parameters(run, table.view.score) for run in runs]
        common = {
            "data": table.data,
            "model": table.model,
            "score": table.view.score,
            "method": row.method,
            "budget": row.budget,
            "adapter_params_min": min(sizes, default=None),
            "adapter_params_max": max(sizes, default=None),
            "head_params_max": max((r["params"]["head"] for r in runs), default=None),
        }
        for task in table.tasks:
            yield {**common, **_cell(table, row, task)}
        # Columns `low` and `high` are the averages' own.
        if None in table.columns and (estimate := table.mean(row, None)) is not None:
            low, high = estimate.interval()
            yield {**common, "task": AVERAGE, "mean": estimate.mean, "low": low, "high": high}


def _cell(table: Table, row: Row, task: str) -> dict[str, Any]:
    """Returns the columns of the CSV that are a cell's own."""
    known, runs = table.values(row, task), table.runs_of(row, task)
    result = table.view.score
    return {
        "task": task,
        "metric": table.view.metric(task),
        "n": len(known),
        "mean": statistics.mean(known.values()) if known else None,
        "std": statistics.stdev(known.values()) if len(known) > 1 else None,
        "median": statistics.median(known.values()) if known else None,
        # Every seed, so that anyone can test differences in another way.
        "values": " ".join(f"{seed}:{value:.4f}" for seed, value in known.items()),
        "missing_seeds": " ".join(map(str, sorted(table.seeds - known.keys()))),
        "degenerate": sum(bool(run["results"][result]["degenerate"]) for run in runs),
        "dirty": sum(map(dirty, runs)),
        "train_s_mean": statistics.mean(run["train_s"] for run in runs) if runs else None,
        "peak_memory_bytes_max": max((run["peak_memory_bytes"] for run in runs), default=None),
    }


def difference_lines(table: Table) -> Iterator[dict[str, Any]]:
    """Yields a line for each difference from the baseline."""
    for d in differences(table):
        low, high = d.estimate.interval()
        of_examples = d.examples or (None, None)
        yield {
            "data": table.data,
            "model": table.model,
            "score": table.view.score,
            "method": d.row.method,
            "budget": d.row.budget,
            "against": table.view.baseline,
            "task": d.task or AVERAGE,
            "mean": d.estimate.mean,
            "low": low,
            "high": high,
            "examples_low": of_examples[0],
            "examples_high": of_examples[1],
            "p_holm": d.p,
            "better": d.better,
            "detectable": d.detectable,
            # For an average this is the number of the task with fewest pairs.
            "seeds": min(d.seeds),
        }


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
