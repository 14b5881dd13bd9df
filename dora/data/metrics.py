"""GLUE's metrics as an `evaluate` metric that needs neither a download nor a file.

`evaluate.load("glue", …)` fetches a script from the hub at run time. This module has the metric
written down: the same names, with scikit-learn and scipy underneath. Values are fractions (0.85,
not 85).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from dora.data.predictions import constant, predict
from dora.data.tasks import TASKS, Task

# (references, predictions) -> value; NaN where the metric is undefined.
_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy_score,
    # F1 of class 1 ("equivalent", "duplicate"). Undefined if neither references nor predictions
    # have a row of that class.
    "f1": lambda y, p: f1_score(y, p, zero_division=np.nan),
    # 0/0 if all predictions are of one class. GLUE and scikit-learn give 0 then, so a collapsed run
    # counts as 0 in CoLA's mean instead of dropping out of it; `degenerate` reports it. scikit-learn
    # would warn where the references are of that class, too.
    "matthews_correlation": lambda y, p: (
        0.0 if constant(y) or constant(p) else matthews_corrcoef(y, p)
    ),
    "pearson": lambda y, p: np.nan if constant(y) or constant(p) else pearsonr(y, p).statistic,
    "spearmanr": lambda y, p: np.nan if constant(y) or constant(p) else spearmanr(y, p).statistic,
}


class Glue(evaluate.Metric):
    """The metrics of one task: `compute(predictions=…, references=…)` returns them by name.

    Both arguments are class ids or scores, (n,). A metric that is undefined for the given rows is
    left out. Everything is kept in memory: without cache files, processes cannot get in each
    other's way. Raises ValueError for a task that GLUE does not have.
    """

    def __init__(self, config_name: str, **settings: Any) -> None:
        if config_name not in TASKS:
            raise ValueError(f"task {config_name!r} must be one of {', '.join(TASKS)}")
        # A fixed seed, because the base class would otherwise read NumPy's global random state.
        super().__init__(config_name, **{**settings, "keep_in_memory": True, "seed": 0})

    def _build_data_dir(self) -> str:
        """Names no directory: the base class would make an empty one in the user's home."""
        return ""

    def _info(self) -> evaluate.MetricInfo:
        kind = datasets.Value("float64" if TASKS[self.config_name].regression else "int64")
        return evaluate.MetricInfo(
            description=f"The metrics of GLUE's {self.config_name}, as fractions.",
            citation="Wang et al., GLUE: A Multi-Task Benchmark and Analysis Platform, ICLR 2019",
            inputs_description="predictions, references: class ids, or scores for stsb; (n,) each.",
            features=datasets.Features({"predictions": kind, "references": kind}),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        # The arguments are lists, because with format="numpy" `datasets` would round scores to
        # float32 on the way, and Pearson's correlation would be off by 1e-8.
        y, p = np.asarray(references), np.asarray(predictions)
        values = {name: float(_METRICS[name](y, p)) for name in TASKS[self.config_name].metrics}
        return {name: value for name, value in values.items() if not np.isnan(value)}


def score(task: Task, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Computes the task's metrics, each in [-1, 1], from logits (n, outputs) and labels (n,).

    Undefined metrics are left out; all are if any logit is not finite, since no prediction means
    anything then. Takes about 10 ms and 5 µs a row, or 0.2 s for the 40,430 rows of QQP. Most of
    that is `datasets` encoding one value at a time.
    """
    if not np.isfinite(logits).all():
        return {}
    result: dict[str, float] = Glue(task.name).compute(
        predictions=predict(task, logits), references=labels
    )
    return result
