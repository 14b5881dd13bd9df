"""A view of finished runs: which of them count, and which of their scores."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dora.analysis.choice import short
from dora.analysis.rows import BASELINE
from dora.data.tasks import TASKS, score_key
from dora.errors import UserError
from dora.records.schema import Run

# Undefined where all predictions are equal. Then 0, as Matthews' correlation is by convention: a run
# that collapsed would otherwise drop out of its method's mean.
_CORRELATIONS = ("pearson", "spearmanr")
# The reason that `dora.data.predictions.degenerate` gives then. It is no import: NumPy takes a while,
# and the summary of a sweep needs a view. Logits that are not finite have no value in any task.
_ALL_EQUAL = re.compile(r"all \d+ predictions are ")
MEAN = "mean"  # of all of a task's metrics, as GLUE's leaderboard counts them
# The metrics' names in the heads of tables, which have to be narrow.
_SHORT = {
    "accuracy": "acc",
    "f1": "F1",
    "matthews_correlation": "Mcc",
    "pearson": "Pearson",
    "spearmanr": "Spearman",
    "spearman": "Spearman",
    "correlation": "corr.",  # a paper that does not say which
    MEAN: "mean",
}


def in_head(metric: str) -> str:
    """Returns a metric as tables have it: `acc` for accuracy; one without a short name as it is."""
    return _SHORT.get(metric, metric)


def metrics_of(task: str) -> tuple[str, ...]:
    """Returns the names of a task's scores.

    These are its metrics on every development split (`accuracy_mm` on MNLI's mismatched one), and
    `MEAN` where there are several.
    """
    splits = TASKS[task].dev_splits
    names = [score_key(metric, split) for split in splits for metric in TASKS[task].metrics]
    return (*names, MEAN) if len(names) > 1 else tuple(names)


@dataclass(frozen=True)
class View:
    """A choice of runs, and of one score for each.

    `score`: "best" or "last" development evaluation. `metrics`: task → one of `metrics_of`; a task
    that is not named is scored by its first metric. `glue`: average as GLUE's leaderboard does,
    over the mean of each task's metrics, WNLI included. `where`: settings that runs must have
    (`dora.analysis.choice`). `mix`: runs of a cell may differ in their arithmetic. `by_length`: runs
    of each number of steps are a table of their own. `tasks`, `methods`: the ones to show, empty
    for all. `transposed`: tables have a row a task. `baseline`: the method that others are compared
    with. Raises UserError for an unknown task or metric.
    """

    score: str = "best"
    metrics: Mapping[str, str] = field(default_factory=dict)
    glue: bool = False
    where: tuple[str, ...] = ()
    mix: bool = False
    by_length: bool = False
    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    transposed: bool = False
    baseline: str = BASELINE

    def __post_init__(self) -> None:
        wrong = []
        for task, metric in self.metrics.items():
            if task not in TASKS:
                wrong.append(f"task {task!r} must be one of {', '.join(TASKS)}")
            elif metric not in metrics_of(task):
                known = ", ".join(metrics_of(task))
                wrong.append(f"{task}'s metric {metric!r} must be one of {known}")
        if wrong:
            raise UserError(*wrong)

    @property
    def choice(self) -> list[str]:
        """The choice of runs in words: `lr=0.002`; empty where all runs count."""
        named = (("tasks", self.tasks), ("methods", self.methods))
        shown = [f"{what}={'+'.join(names)}" for what, names in named if names]
        return [*short(self.where), *shown, *(["mixed arithmetic"] if self.mix else [])]

    @property
    def suffix(self) -> str:
        """The choice of runs as a part of a file's name: `-lr=0.002`."""
        words = [*self.choice, *(["transposed"] if self.transposed else [])]
        # A value may hold a path or a space: only characters that every file system takes are kept.
        return "".join("-" + re.sub(r"[^\w.=+-]", "_", word) for word in words)

    @property
    def scoring(self) -> list[str]:
        """The parts of a file's name for how runs are scored, none for the default way."""
        return [
            *(["glue"] if self.glue else []),
            *(f"{task}-{metric}" for task, metric in sorted(self.metrics.items())),
            *([f"from-{self.baseline}"] if self.baseline != BASELINE else []),
        ]

    def shows(self, task: str, method: str) -> bool:
        """Returns whether the view shows this task and method: it names them, or names none."""
        return task in (self.tasks or (task,)) and method in (self.methods or (method,))

    def metric(self, task: str) -> str:
        """Returns the name of the task's score."""
        names = metrics_of(task)
        return self.metrics.get(task, MEAN if self.glue and MEAN in names else names[0])

    def title(self, task: str) -> str:
        """Returns the task with its score, as a table's head has it: `MRPC F1`."""
        return f"{self.name(task)} {self.unit(task)}"

    def name(self, task: str) -> str:
        """Returns the task as `title` begins: `MRPC`, or `MNLI-mm` for MNLI's mismatched rows."""
        # The task's name, not the metric's, says which of MNLI's two development sets it is.
        return TASKS[task].folder + ("-mm" if self.metric(task).endswith("_mm") else "")

    def unit(self, task: str) -> str:
        """Returns the task's score as `title` ends: `F1`."""
        return in_head(self.metric(task).removesuffix("_mm"))

    def value(self, run: Run, task: str) -> float | None:
        """Returns the run's score in points, see `value_of`."""
        return self.value_of(run["results"][self.score], task)

    def value_of(self, result: Mapping[str, Any], task: str) -> float | None:
        """Returns the score of an evaluation in points, or None where its predictions have none.

        A correlation of predictions that are all equal counts as 0. `result`: scores by metric, and
        as `degenerate` why they tell nothing, or None.
        """
        metric = self.metric(task)
        names = metrics_of(task)[:-1] if metric == MEAN else (metric,)
        equal = _ALL_EQUAL.match(result["degenerate"] or "")
        collapsed = dict.fromkeys(_CORRELATIONS, 0.0) if equal else {}
        values = [result.get(name, collapsed.get(name)) for name in names]
        # The mean of what is left would be the score of another metric.
        return None if None in values else 100 * math.fsum(values) / len(values)
