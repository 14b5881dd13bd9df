"""Scores against worked cases, the definitions, and scikit-learn and scipy called directly."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from dora.data.metrics import Glue, score
from dora.data.predictions import constant, degenerate, predict
from dora.data.tasks import TASKS

# 8 rows: TP = 3, FN = 1, FP = 2, TN = 2.
LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0])
PREDICTED = np.array([1, 1, 1, 0, 1, 1, 0, 0])


def logits(classes: np.ndarray, outputs: int = 2) -> np.ndarray:
    """Returns logits (n, outputs), float32 and negative, highest at each row's class."""
    return (np.eye(outputs)[classes] - 2).astype(np.float32)


def test_worked_example_accuracy_and_f1():
    assert score(TASKS["mrpc"], logits(PREDICTED), LABELS) == pytest.approx(
        {"accuracy": 5 / 8, "f1": 6 / 9}
    )


def test_worked_example_matthews_correlation():
    want = (3 * 2 - 2 * 1) / np.sqrt((3 + 2) * (3 + 1) * (2 + 2) * (2 + 1))
    assert score(TASKS["cola"], logits(PREDICTED), LABELS) == pytest.approx(
        {"matthews_correlation": want}
    )


def test_worked_example_pearson_and_spearman():
    # Ranks 1 2 3 4 against 1 3 2 4: rho = 1 - 6 * 2 / (4 * 15). Deviations: 7 / sqrt(5 * 10.75).
    result = score(
        TASKS["stsb"], np.array([[1.0], [3.0], [2.0], [5.5]]), np.array([1.0, 2.0, 3.0, 4.0])
    )
    x, y = np.array([1, 3, 2, 5.5]) - 2.875, np.array([1, 2, 3, 4]) - 2.5
    assert result == pytest.approx(
        {"pearson": x @ y / np.sqrt((x @ x) * (y @ y)), "spearmanr": 0.8}
    )


@pytest.mark.parametrize("name", TASKS)
def test_random_rows_as_scikit_learn_and_scipy_have_them(name):
    task, rng = TASKS[name], np.random.default_rng(1)
    raw = rng.normal(size=(500, task.outputs)).astype(np.float32)
    labels = rng.random(500) * 5 if task.regression else rng.integers(0, task.outputs, 500)
    p = raw[:, 0].astype(float) if task.regression else np.argmax(raw, axis=1)
    direct = {
        "accuracy": lambda: sklearn.metrics.accuracy_score(labels, p),
        "f1": lambda: sklearn.metrics.f1_score(labels, p),
        "matthews_correlation": lambda: sklearn.metrics.matthews_corrcoef(labels, p),
        "pearson": lambda: scipy.stats.pearsonr(p, labels)[0],
        "spearmanr": lambda: scipy.stats.spearmanr(p, labels)[0],
    }
    result = score(task, raw, labels)
    assert result == pytest.approx({metric: direct[metric]() for metric in task.metrics}, rel=1e-12)
    assert list(result) == list(task.metrics)
    assert {type(value) for value in result.values()} == {float}


def test_three_classes_and_ties():
    task = TASKS["mnli"]
    assert predict(task, np.array([[0, 0, 1], [2, 2, 1], [-3, -1, -2]])).tolist() == [2, 0, 1]
    assert score(task, logits(np.array([0, 1, 2, 2]), 3), np.array([0, 1, 2, 0])) == {
        "accuracy": 0.75
    }


def test_undefined_metrics_are_left_out():
    labels = np.array([1.0, 2.0, 3.0])
    for alike in (
        np.full((3, 1), 2.5),
        np.full((3, 1), 0.0),
        np.array([[1e6], [1e6 + 1e-8], [1e6]]),
    ):
        assert score(TASKS["stsb"], alike, labels) == {}
    assert score(TASKS["stsb"], np.array([[1.0], [2.0], [3.0]]), np.full(3, 4.0)) == {}
    no_positive = np.zeros(4, int)
    assert score(TASKS["mrpc"], logits(no_positive), no_positive) == {"accuracy": 1.0}
    assert score(TASKS["cola"], np.full((4, 2), np.nan), no_positive) == {}


def test_f1_without_a_predicted_positive_is_0_not_undefined():
    assert score(TASKS["qqp"], logits(np.zeros(8, int)), LABELS) == {"accuracy": 0.5, "f1": 0.0}


def test_collapsed_cola_counts_as_0_as_glue_counts_it():
    collapsed = logits(np.ones(8, int))
    assert sklearn.metrics.matthews_corrcoef(LABELS, np.ones(8, int)) == 0
    metrics = score(TASKS["cola"], collapsed, LABELS)
    assert metrics == {"matthews_correlation": 0.0}
    assert degenerate(TASKS["cola"], collapsed, metrics) == "all 8 predictions are 'acceptable'"
    # No warning of scikit-learn's, which would be an error here, where the labels are alike, too.
    assert score(TASKS["cola"], collapsed, np.ones(8, int)) == {"matthews_correlation": 0.0}


@pytest.mark.parametrize("sign", [1, -1])
def test_values_are_constant_if_they_are_equal_up_to_a_relative_rounding_of_1e_11(sign):
    # 4.2 with a spread of 2e-12, and of 2e-10, of itself; 0 has no rounding.
    for spread, equal in ((0, True), (8.4e-12, True), (8.4e-10, False)):
        assert constant(sign * np.array([4.2, 4.2 + spread, 4.2])) == equal
    assert constant(np.zeros(3))
    assert not constant(sign * np.array([0.0, 1e-300]))


def test_a_regressions_predictions_are_its_logits_in_64_bits():
    assert predict(TASKS["stsb"], np.array([[0.1], [2.0]])).tolist() == [0.1, 2.0]


def test_degenerate_says_why():
    cola, stsb = TASKS["cola"], TASKS["stsb"]
    assert degenerate(stsb, np.full((3, 1), 2.7182818), {}) == "all 3 predictions are 2.718"
    half = logits(np.array([1, 1, 0, 0, 1, 1, 0, 0]))  # right for half of either class
    metrics = score(cola, half, LABELS)
    assert degenerate(cola, half, metrics) == "the Matthews correlation is exactly 0"
    broken = half.copy()
    broken[2, 1] = np.inf
    assert degenerate(cola, broken, {}) == "1 of 8 rows have logits that are not finite"
    assert degenerate(cola, logits(PREDICTED), score(cola, logits(PREDICTED), LABELS)) is None
    assert degenerate(stsb, np.array([[1.0], [2.0]]), {"pearson": 0.0}) is None


def test_it_is_an_evaluate_metric_and_leaves_numpys_random_state_alone():
    import evaluate

    metric = Glue("sst2")
    assert isinstance(metric, evaluate.Metric)
    assert metric.config_name == "sst2"
    before = np.random.get_state()[1].copy()
    metric.add_batch(predictions=[1, 0], references=[1, 1])
    metric.add_batch(predictions=[0], references=[0])
    assert metric.compute() == {"accuracy": pytest.approx(2 / 3)}
    assert metric.compute(predictions=[1], references=[1]) == {"accuracy": 1.0}  # nothing left over
    assert (np.random.get_state()[1] == before).all()


def test_unknown_task_and_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="'ax' must be one of cola, sst2"):
        Glue("ax")
    with pytest.raises(ValueError, match="Mismatch"):
        score(TASKS["sst2"], logits(PREDICTED), LABELS[:-1])


def test_two_at_once_keep_apart_and_leave_no_file(tmp_path, monkeypatch):
    import evaluate

    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    one, other = Glue("rte"), Glue("rte")
    one.add_batch(predictions=[1, 1], references=[1, 0])
    other.add_batch(predictions=[0], references=[0])
    assert list(tmp_path.iterdir()) == []
    assert (one.compute(), other.compute()) == ({"accuracy": 0.5}, {"accuracy": 1.0})
    assert list(tmp_path.iterdir()) == []
