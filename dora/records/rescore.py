"""A second computation of a run's scores, from its stored predictions, with NumPy alone.

The scores in run.json must follow from the predictions. A run is scored by `dora.data.metrics`,
whose libraries take two seconds to import and 10 ms a score; this module takes 0.1 ms a score.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from dora.data import npz
from dora.data.predictions import UNREADABLE, constant, predict
from dora.data.tasks import TASKS, Task, score_key
from dora.records.schema import Run

WHICH = ("best", "last")
# For rounding. The smallest real difference, one prediction of QQP's 40,430, is 2.5e-5.
TOLERANCE = 1e-9


def _f1(y: np.ndarray, p: np.ndarray) -> float:
    """Returns the F1 of class 1; NaN if neither labels nor predictions have a row of it."""
    found = int(((y == 1) | (p == 1)).sum())
    both = int(((y == 1) & (p == 1)).sum())
    return 2 * both / (found + both) if found else float("nan")


def _matthews(y: np.ndarray, p: np.ndarray) -> float:
    """Returns the correlation of classes; 0 where all labels or all predictions are one class."""
    if constant(y) or constant(p):
        return 0.0
    # Gorodkin's form for any number of classes, from the counts of each; scikit-learn's, too.
    classes = np.unique([y, p])
    true, said = ((values == classes[:, None]).astype(np.int64) for values in (y, p))
    of_true, of_said, n = true.sum(1), said.sum(1), len(y)
    together = n * (true * said).sum() - (of_true * of_said).sum()
    spread = [float(n * n - (counts * counts).sum()) for counts in (of_true, of_said)]
    return float(together) / float(np.sqrt(spread[0] * spread[1]))


def _pearson(y: np.ndarray, p: np.ndarray) -> float:
    if constant(y) or constant(p):
        return float("nan")
    y, p = y - y.mean(), p - p.mean()
    # Rounding can exceed 1.
    return float(np.clip((y / np.linalg.norm(y)) @ (p / np.linalg.norm(p)), -1, 1))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Returns ranks from 1 as floats; equal values share the mean of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return ranks


_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda y, p: float((y == p).mean()),
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": _pearson,
    "spearmanr": lambda y, p: (
        float("nan") if constant(y) or constant(p) else _pearson(_ranks(y), _ranks(p))
    ),
}


def rescore(task: Task, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns the values of `dora.data.metrics.score` up to rounding: the task's metrics by name.

    Undefined metrics are left out. logits: (rows, outputs); labels: (rows,).
    """
    if not np.isfinite(logits).all():  # a diverged run has no scores
        return {}
    predictions = predict(task, logits)
    values = {name: _METRICS[name](labels, predictions) for name in task.metrics}
    return {name: value for name, value in values.items() if not np.isnan(value)}


def disagreement(folder: Path, run: Run) -> str | None:
    """Returns the first score of a finished run that its stored predictions do not give.

    Returns None where all agree, and where no predictions are stored, so that there is nothing to
    compare. Raises one of `predictions.UNREADABLE` where they are stored and damaged. Takes 0.5 ms,
    and 3 ms for QQP's 40,430 rows.
    """
    return contradiction(run, scored_arrays(folder, run))


def unlike_predictions(folder: Path, run: Run) -> str | None:
    """Returns why stored predictions do not bear out a run's scores, or None if they do.

    Predictions that cannot be read are a reason, too.
    """
    try:
        return disagreement(folder, run)
    except UNREADABLE as e:
        return f"its predictions.npz cannot be read ({e})"


def scored_arrays(folder: Path, run: Run) -> dict[str, np.ndarray]:
    """Reads the stored arrays that the scores of a run follow from: labels and logits by name.

    Returns none where no predictions are stored. Raises one of `predictions.UNREADABLE` where they
    are damaged.
    """
    # A study that was copied or committed is mostly kept without predictions.
    if not os.path.lexists(folder / npz.NAME):
        return {}
    task = TASKS[run["config"]["task"]]
    # The development splits alone: QQP's test rows are ten times as many, and have no labels.
    names = [f"{split}/labels" for split in task.dev_splits]
    names += [f"{which}/{split}/logits" for which in WHICH for split in task.dev_splits]
    return npz.load(folder, names, task.outputs)


def contradiction(run: Run, arrays: Mapping[str, np.ndarray]) -> str | None:
    """Returns the first score of a run that these arrays do not give, or None if they give all.

    `arrays`: as `scored_arrays` returns them. A split without labels or logits is not compared.
    """
    task = TASKS[run["config"]["task"]]
    for which, split in product(WHICH, task.dev_splits):
        logits, labels = arrays.get(f"{which}/{split}/logits"), arrays.get(f"{split}/labels")
        if logits is None or labels is None:
            continue
        if wrong := _difference(task, run["results"][which], split, logits, labels):
            return f"its {which} {wrong}"
    return None


def _difference(
    task: Task, recorded: dict[str, Any], split: str, logits: np.ndarray, labels: np.ndarray
) -> str | None:
    """Returns the first score of a split that is not the recorded one, or None if all agree."""
    found = rescore(task, logits, labels)
    for metric in task.metrics:
        name = score_key(metric, split)
        told, value = recorded.get(name), found.get(metric)
        if not _equal(told, value):
            return (
                f"{name} is {_shown(told)} in run.json, its predictions.npz gives {_shown(value)}"
            )
    return None


def _equal(told: float | None, value: float | None) -> bool:
    if told is None or value is None:  # undefined, and so absent from the record
        return told is value
    return abs(told - value) <= TOLERANCE


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.10g}"
