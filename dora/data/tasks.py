"""The GLUE tasks as one table, and the rows that every source delivers.

Labels are in the order of the hub's `nyu-mll/glue`: an adapter trained on one source must mean the
same classes with another. `qnli` and `rte` put *entailment* at 0; `mnli` has entailment, neutral,
contradiction.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Task:
    """One GLUE task.

    `folder`: the directory's name in the official download.
    `text`: the hub's column names, one or two.
    `labels`: class names in the order of their ids; empty for a regression.
    `metrics`: metric names; selection and tables use the first.
    `sizes`: rows of GLUE's own splits, by our names.
    `splits`: our name of a split -> the hub's name. Development splits after `dev` are scored with
    the same model (MNLI mismatched).
    """

    name: str
    folder: str
    text: tuple[str, ...]
    labels: tuple[str, ...]
    # A new metric needs a function in data/metrics.py and another in records/rescore.py, which
    # computes it apart, on purpose. For an interval over examples it also needs its sums in
    # RESAMPLED of analysis/stats.py, for a short head of its column a name in _SHORT of
    # analysis/view.py, and in _HUB_METRICS of sharing/front_matter.py its name on the hub if that
    # is another.
    metrics: tuple[str, ...]
    sizes: dict[str, int]
    splits: dict[str, str] = field(
        default_factory=lambda: {"train": "train", "dev": "validation", "test": "test"}
    )

    @property
    def regression(self) -> bool:
        """Returns True where the label is a real number (STS-B)."""
        return not self.labels

    @property
    def written(self) -> tuple[str, ...]:
        """Returns the text for each class in GLUE's own files of data and predictions.

        Some tasks write the class name, the others the id.
        """
        worded = self.name in ("mnli", "ax", "qnli", "rte")
        return self.labels if worded else tuple(str(i) for i in range(len(self.labels)))

    @property
    def outputs(self) -> int:
        """Returns the width of the head: the number of classes, 1 for a regression."""
        return max(1, len(self.labels))

    @property
    def dev_splits(self) -> tuple[str, ...]:
        """Returns the labelled splits that a run reports; the first one selects the best step."""
        return tuple(s for s in self.splits if s.startswith("dev"))


@dataclass(frozen=True)
class Rows:
    """One split as columns of equal length, in file order.

    `second`: None for tasks of single sentences.
    `label`: (rows,) int64 class ids or float64 scores, or None if GLUE publishes none.
    `idx`: (rows,) int64, GLUE's own ids, which the leaderboard's files repeat.
    """

    first: list[str]
    second: list[str] | None
    label: np.ndarray | None
    idx: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def take(self, index: np.ndarray) -> Rows:
        """Returns the rows at `index`, in that order."""
        return Rows(
            first=[self.first[i] for i in index],
            second=None if self.second is None else [self.second[i] for i in index],
            label=None if self.label is None else self.label[index],
            idx=self.idx[index],
        )


def score_key(metric: str, split: str) -> str:
    """Returns the name of a metric or the loss on a split, as records and journals have it.

    The name of a split other than `dev` is its end: `accuracy`, `accuracy_mm`, `loss_heldout`.
    """
    end = split.removeprefix("dev").lstrip("_")
    return f"{metric}_{end}" if end else metric


def labelled(split: str) -> bool:
    """Returns True where GLUE publishes the labels of the split; `split` is our name of it."""
    return split.startswith(("train", "dev"))


# In the order of wnli; qnli and rte have the reverse, as the hub has it.
_TWO = ("not_entailment", "entailment")
_PAIR = ("sentence1", "sentence2")
# The suite's names are short and alike for all tasks, so that code asks for "dev", never for
# "validation_matched".
_MNLI_SPLITS = {
    "train": "train",
    "dev": "validation_matched",
    "dev_mm": "validation_mismatched",
    "test": "test_matched",
    "test_mm": "test_mismatched",
}
_MNLI = Task(
    "mnli",
    "MNLI",
    ("premise", "hypothesis"),
    ("entailment", "neutral", "contradiction"),
    ("accuracy",),
    {"train": 392_702, "dev": 9_815, "dev_mm": 9_832, "test": 9_796, "test_mm": 9_847},
    _MNLI_SPLITS,
)
# name, folder, text, labels, metrics, sizes, splits: the fields of `Task`.
# Sizes are those of nyu-mll/glue; QQP's official files have a few rows more.
_ALL = (
    Task(
        "cola",
        "CoLA",
        ("sentence",),
        ("unacceptable", "acceptable"),
        ("matthews_correlation",),
        {"train": 8_551, "dev": 1_043, "test": 1_063},
    ),
    Task(
        "sst2",
        "SST-2",
        ("sentence",),
        ("negative", "positive"),
        ("accuracy",),
        {"train": 67_349, "dev": 872, "test": 1_821},
    ),
    Task(
        "mrpc",
        "MRPC",
        _PAIR,
        ("not_equivalent", "equivalent"),
        ("accuracy", "f1"),
        {"train": 3_668, "dev": 408, "test": 1_725},
    ),
    Task(
        "qqp",
        "QQP",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        ("accuracy", "f1"),
        {"train": 363_846, "dev": 40_430, "test": 390_965},
    ),
    Task(
        "stsb",
        "STS-B",
        _PAIR,
        (),
        ("pearson", "spearmanr"),
        {"train": 5_749, "dev": 1_500, "test": 1_379},
    ),
    _MNLI,
    Task(
        "qnli",
        "QNLI",
        ("question", "sentence"),
        _TWO[::-1],
        ("accuracy",),
        {"train": 104_743, "dev": 5_463, "test": 5_463},
    ),
    Task(
        "rte", "RTE", _PAIR, _TWO[::-1], ("accuracy",), {"train": 2_490, "dev": 277, "test": 3_000}
    ),
    Task("wnli", "WNLI", _PAIR, _TWO, ("accuracy",), {"train": 635, "dev": 71, "test": 146}),
)

# Tables and summaries list the tasks in this order.
TASKS: dict[str, Task] = {task.name: task for task in _ALL}

# The diagnostic set, predicted with the MNLI model. It has MNLI's classes, but GLUE publishes no
# labels. Not in TASKS, since no run trains on it.
AX = Task("ax", "AX", _MNLI.text, _MNLI.labels, (), {"ax": 1_104}, {"ax": "test"})
