"""A run's scores once more, from its stored predictions: what run.json says must follow from them. Needs NumPy alone.

`dora.data.metrics` is what scores a run; its libraries take two seconds to import and 10 ms a score. This is a second way to
the same numbers, in 0.1 ms.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from dora.data import npz
from dora.data.predictions import constant, predict
from dora.data.tasks import TASKS, Task

WHICH = ("best", "last")
TOLERANCE = 1e-9  # of rounding; one prediction of QQP's 40,430 is 2.5e-5


def _f1(y: np.ndarray, p: np.ndarray) -> float:
    """Of class 1; NaN with no such row among labels and predictions."""
    found = int(((y == 1) | (p == 1)).sum())
    both = int(((y == 1) & (p == 1)).sum())
    return 2 * both / (found + both) if found else float("nan")


def _matthews(y: np.ndarray, p: np.ndarray) -> float:
    """The correlation of classes; 0 where all of either are one."""
    if constant(y) or constant(p):
        return 0.0
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
    return float(np.clip((y / np.linalg.norm(y)) @ (p / np.linalg.norm(p)), -1, 1))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 as floats; equal values share the mean of theirs."""
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
    """The values of `dora.data.metrics.score`, up to rounding: the task's metrics by name, undefined ones left out."""
    if not np.isfinite(logits).all():
        return {}
    predictions = predict(task, logits)
    values = {name: _METRICS[name](labels, predictions) for name in task.metrics}
    return {name: value for name, value in values.items() if not np.isnan(value)}


def disagreement(folder: Path, run: dict[str, Any]) -> str | None:
    """Where the scores of a finished run are not those of the predictions stored in its `folder`.

    None where they agree, and where no predictions are stored: then there is nothing to compare. Raises one of
    `predictions.UNREADABLE` where they are stored and damaged. Takes 0.5 ms, and 3 ms for QQP's 40,430 rows.
    """
    if not os.path.lexists(folder / npz.NAME):  # as in most studies of somebody else
        return None
    task = TASKS[run["config"]["task"]]
    names = [f"{split}/labels" for split in task.dev_splits]
    names += [f"{which}/{split}/logits" for which in WHICH for split in task.dev_splits]
    arrays = npz.load(folder, names, task.outputs)
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
    """The first score of a split that is not the one recorded."""
    found = rescore(task, logits, labels)
    for metric in task.metrics:
        name = f"{metric}{split.removeprefix('dev')}"
        told, value = recorded.get(name), found.get(metric)
        same = told is value or (
            told is not None and value is not None and abs(told - value) <= TOLERANCE
        )
        if not same:
            return (
                f"{name} is {_shown(told)} in run.json, its predictions.npz gives {_shown(value)}"
            )
    return None


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.10g}"
