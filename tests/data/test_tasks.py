"""The table of tasks beside the features of nyu-mll/glue, copied by hand."""

from __future__ import annotations

import pytest

from dora.data.tasks import AX, TASKS, score_key

ACCURACY = ("accuracy",)
# Task: the columns of texts, the class names in the order of their ids, the metrics of GLUE's paper.
HUB = {
    "cola": ("sentence", "unacceptable acceptable", ("matthews_correlation",)),
    "sst2": ("sentence", "negative positive", ACCURACY),
    "mrpc": ("sentence1 sentence2", "not_equivalent equivalent", ("accuracy", "f1")),
    "qqp": ("question1 question2", "not_duplicate duplicate", ("accuracy", "f1")),
    "stsb": ("sentence1 sentence2", "", ("pearson", "spearmanr")),
    "mnli": ("premise hypothesis", "entailment neutral contradiction", ACCURACY),
    "qnli": ("question sentence", "entailment not_entailment", ACCURACY),
    "rte": ("sentence1 sentence2", "entailment not_entailment", ACCURACY),
    "wnli": ("sentence1 sentence2", "not_entailment entailment", ACCURACY),
}


@pytest.mark.parametrize("name", TASKS)
def test_columns_classes_and_metrics_of_a_task_are_those_of_the_hub(name: str) -> None:
    task = TASKS[name]
    columns, classes, metrics = HUB[name]
    assert task.text == tuple(columns.split())
    # An adapter that is trained on one source must mean the same classes with another.
    assert task.labels == tuple(classes.split())
    assert task.metrics == metrics
    assert task.outputs == (len(task.labels) or 1)


def test_a_score_ends_in_the_name_of_its_split_but_for_the_first_development_set() -> None:
    names = [score_key("accuracy", split) for split in (*TASKS["mnli"].dev_splits, "heldout")]
    assert names == ["accuracy", "accuracy_mm", "accuracy_heldout"]


def test_the_diagnostic_set_has_mnlis_classes() -> None:
    assert AX.labels == tuple(HUB["mnli"][1].split())
