"""The GLUE tasks as one table, and the rows that every source delivers.

Label order is that of the hub's `nyu-mll/glue`, so that an adapter trained on one source is read
rightly with another: `qnli` and `rte` put *entailment* at 0, `mnli` runs entailment, neutral,
contradiction.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Task:
    """One GLUE task.

    `text`: the hub's column names, one or two. `labels`: class names in the order of their ids; empty
    for a regression. `metrics`: the first one is the score that selection and tables use.
    `splits`: our name of a split → the hub's name. Evaluation splits beyond `dev` are scored with
    the same model (MNLI mismatched). `folder`: the directory's name in the official download.
    """

    name: str
    folder: str
    text: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    splits: dict[str, str] = field(
        default_factory=lambda: {"train": "train", "dev": "validation", "test": "test"}
    )

    @property
    def regression(self) -> bool:
        """Whether the label is a real number (STS-B)."""
        return not self.labels

    @property
    def written(self) -> tuple[str, ...]:
        """What GLUE's own files, data and predictions alike, write for each class: a word in some, else its id."""
        worded = self.name in ("mnli", "ax", "qnli", "rte")
        return self.labels if worded else tuple(str(i) for i in range(len(self.labels)))

    @property
    def outputs(self) -> int:
        """Width of the head: the number of classes, 1 for a regression."""
        return max(1, len(self.labels))

    @property
    def dev_splits(self) -> tuple[str, ...]:
        """The labelled splits a run reports, the one that selects first."""
        return tuple(s for s in self.splits if s.startswith("dev"))


@dataclass(frozen=True)
class Rows:
    """One split as columns of equal length, in file order.

    `second` is None for single sentences; `label` is None where GLUE publishes none, else int64 class
    ids or float64 scores; `idx` are GLUE's own ids, which the leaderboard's files repeat.
    """

    first: list[str]
    second: list[str] | None
    label: np.ndarray | None
    idx: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def take(self, index: np.ndarray) -> Rows:
        """The rows at `index`, in that order."""
        return Rows(
            first=[self.first[i] for i in index],
            second=None if self.second is None else [self.second[i] for i in index],
            label=None if self.label is None else self.label[index],
            idx=self.idx[index],
        )


def labelled(split: str) -> bool:
    """Whether GLUE publishes the labels of a split, by our name of it."""
    return split.startswith(("train", "dev"))


_TWO = ("not_entailment", "entailment")
_MNLI_SPLITS = {
    "train": "train",
    "dev": "validation_matched",
    "dev_mm": "validation_mismatched",
    "test": "test_matched",
    "test_mm": "test_mismatched",
}

TASKS: dict[str, Task] = {
    t.name: t
    for t in (
        Task(
            "cola", "CoLA", ("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",)
        ),
        Task("sst2", "SST-2", ("sentence",), ("negative", "positive"), ("accuracy",)),
        Task(
            "mrpc",
            "MRPC",
            ("sentence1", "sentence2"),
            ("not_equivalent", "equivalent"),
            ("accuracy", "f1"),
        ),
        Task(
            "qqp",
            "QQP",
            ("question1", "question2"),
            ("not_duplicate", "duplicate"),
            ("accuracy", "f1"),
        ),
        Task("stsb", "STS-B", ("sentence1", "sentence2"), (), ("pearson", "spearmanr")),
        Task(
            "mnli",
            "MNLI",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            ("accuracy",),
            _MNLI_SPLITS,
        ),
        Task("qnli", "QNLI", ("question", "sentence"), _TWO[::-1], ("accuracy",)),
        Task("rte", "RTE", ("sentence1", "sentence2"), _TWO[::-1], ("accuracy",)),
        Task("wnli", "WNLI", ("sentence1", "sentence2"), _TWO, ("accuracy",)),
    )
}

# The diagnostic set: MNLI's labels, no labels published, predicted with the MNLI model.
AX = Task("ax", "AX", ("premise", "hypothesis"), TASKS["mnli"].labels, (), {"ax": "test"})
