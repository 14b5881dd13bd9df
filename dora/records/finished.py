"""Finished runs as tables, figures and `dora.load` read them: believed, or left out and named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dora.data import npz
from dora.data.predictions import UNREADABLE, predict
from dora.data.tasks import TASKS
from dora.errors import reason
from dora.records import artefacts, packed
from dora.records.directories import directories
from dora.records.rescore import WHICH, contradiction, scored_arrays
from dora.records.run_json import NotARecord, read_placed
from dora.records.schema import Run


class Predicted(NamedTuple):
    """Holds the development set's labels, and what one evaluation of a run predicted.

    `labels`, `predictions`: (n,) each; classes as small integers, scores of a regression as floats.
    """

    labels: np.ndarray
    predictions: np.ndarray


def read_runs(results: Path) -> list[Run]:
    """Reads run.json of every finished run under `results`/runs, in path order.

    Adds the run's directory as `folder`, and as `predicted` its `Predicted` by evaluation (best,
    last), as far as they are stored and sound. A record that cannot be believed is left out and
    named, as `dora.status` calls it broken.
    """
    runs = []
    for folder in directories(results):
        try:
            run = read_placed(folder)
        except FileNotFoundError:
            continue  # a run that has only just begun
        except NotARecord as e:
            left_out(folder / "run.json", str(e))
            continue
        if run["status"] != "done":
            continue
        arrays = _believed_arrays(folder, run)
        if (problem := contradiction(run, arrays)) is not None:
            left_out(folder / "run.json", problem)
            continue
        runs.append({**run, "folder": folder, "predicted": _predicted(run, arrays)})
    return runs


def _believed_arrays(folder: Path, run: Run) -> dict[str, np.ndarray]:
    """Returns the stored arrays that the run's scores follow from; none of a damaged file.

    Damaged predictions contradict nothing; they are named as left out.
    """
    problem = artefacts.changed(folder, run, npz.NAME)
    if problem is None:
        try:
            return scored_arrays(folder, run)
        except UNREADABLE as e:
            problem = reason(e)
    left_out(folder / npz.NAME, problem)
    return {}


def _predicted(run: Run, arrays: dict[str, np.ndarray]) -> dict[str, Predicted]:
    """Returns predictions by evaluation, small enough that thousands of runs can keep them."""
    task = TASKS[run["config"]["task"]]
    labels, found = arrays.get("dev/labels"), {}
    for which in WHICH:
        logits = arrays.get(f"{which}/dev/logits")
        if labels is not None and logits is not None:
            both = Predicted(labels, predict(task, logits))
            # GLUE's classes are 0, 1 and 2; argmax gives eight bytes for each.
            found[which] = (
                both if task.regression else Predicted(*(a.astype(np.int8) for a in both))
            )
    return found


# The files that `left_out` has named: the name → the file, or the packed file that it lies in. Kept
# for the whole process: several tables and figures of one command meet the same damaged file, and
# the exit code depends on it.
_said: dict[str, Path] = {}


def left_out(path: Path, why: str) -> None:
    """Prints once that a run's file is damaged and does not count, and what mends it."""
    name, file = packed.shown(path), packed.origin(path)
    if name not in _said:
        _said[name] = file or path
        # A directory counts before the packed record, which nobody can move by itself.
        otherwise = ", or move it away" if file is None else ""
        print(
            f"left out: {name} cannot be read ({why}); "
            f"train that run again with force=true{otherwise}",
            file=sys.stderr,
        )


def anything_left_out(results: Path) -> bool:
    """Returns whether `left_out` has named a file under `results`, or a packed run's there."""
    return any(path.is_relative_to(results) for path in _said.values())
