"""Scores computed from stored predictions are those of `dora.data.metrics`; others are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dora.data.metrics import score
from dora.data.predictions import UNREADABLE, save
from dora.data.tasks import TASKS, Task
from dora.records.rescore import disagreement, rescore


def drawn(task: Task, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws (logits, labels); a regression's have ties, as STS-B's labels do."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (rows, task.outputs)).astype(np.float32)
    if task.regression:
        # Ties share a rank, which is where implementations of Spearman's coefficient differ.
        return logits.round(1), (random.random(rows) * 5).round(1)
    return logits, random.integers(0, len(task.labels), rows)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_they_are_those_of_the_metrics_to_twelve_digits(task: Task) -> None:
    # Few rows give odd cases by chance, such as one class alone; 277 is RTE's development set.
    for seed, rows in enumerate((2, 3, 17, 277, 1500)):
        logits, labels = drawn(task, rows, seed)
        ours, theirs = rescore(task, logits, labels), score(task, logits, labels)
        # An undefined metric is absent from both.
        assert ours.keys() == theirs.keys()
        assert all(abs(ours[name] - theirs[name]) <= 1e-12 for name in theirs), (ours, theirs)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
@pytest.mark.parametrize(
    # Each is a limit of some metric: a correlation without spread, an F1 without its class.
    "odd",
    ["one prediction", "one label", "both the same", "not finite", "none of class 1"],
)
def test_they_are_undefined_or_zero_where_the_metrics_are(task: Task, odd: str) -> None:
    logits, labels = drawn(task, 40, 5)
    if odd in ("one prediction", "both the same", "none of class 1"):
        logits[:] = np.eye(task.outputs)[0]
    if odd in ("one label", "both the same", "none of class 1"):
        labels[:] = 0
    if odd == "not finite":
        logits[3] = np.nan
    ours, theirs = rescore(task, logits, labels), score(task, logits, labels)
    assert ours == pytest.approx(theirs, abs=1e-12)


def stored(folder: Path, name: str) -> dict[str, Any]:
    """Stores predictions for the task `name`, and returns a record with their scores."""
    task = TASKS[name]
    arrays, results = {}, {}
    # MNLI has two development sets, whose metrics differ by a suffix.
    for seed, which in enumerate(("best", "last")):
        results[which] = {"step": seed, "degenerate": None}
        for split in task.dev_splits:
            logits, labels = drawn(task, 100, seed)
            # Best and last are two predictions of the same rows.
            labels = arrays.setdefault(f"{split}/labels", labels)
            arrays[f"{which}/{split}/logits"] = logits
            results[which] |= {f"{k}{split[3:]}": v for k, v in score(task, logits, labels).items()}
    save(folder / "predictions.npz", arrays)
    return {"config": {"task": name}, "results": results}


@pytest.mark.parametrize("name", ["mnli", "mrpc", "stsb", "cola"])
def test_a_record_that_says_another_score_is_named(name: str, tmp_path: Path) -> None:
    run = stored(tmp_path, name)
    assert disagreement(tmp_path, run) is None
    # Every score of the record in turn: first it is absent, then off by a point.
    told = [
        (which, key)
        for which in ("best", "last")
        for key in run["results"][which]
        if key not in ("step", "degenerate")
    ]
    for which, key in told:
        right = run["results"][which].pop(key)
        said = disagreement(tmp_path, run) or ""
        assert said.startswith(
            f"its {which} {key} is undefined in run.json, its predictions.npz gives "
        )
        run["results"][which][key] = right + 0.01
        said = disagreement(tmp_path, run) or ""
        assert said.startswith(
            f"its {which} {key} is {right + 0.01:.10g} in run.json, its predictions.npz gives "
        )
        run["results"][which][key] = right


def test_a_flipped_bit_of_a_digit_is_named(tmp_path: Path) -> None:
    # A record from before there were checksums has nothing else that would show it.
    labels = np.arange(1000) % 2
    logits = np.eye(2)[np.where(np.arange(1000) < 698, labels, 1 - labels)]
    save(tmp_path / "predictions.npz", {"dev/labels": labels, "best/dev/logits": logits})
    run = {"config": {"task": "sst2"}, "results": {"best": {"accuracy": 0.698}, "last": {}}}
    assert disagreement(tmp_path, run) is None
    # One bit makes a 7 of a 6; the record stays sound JSON of the right types.
    run["results"]["best"]["accuracy"] = 0.798  # type: ignore[index]
    assert (
        disagreement(tmp_path, run)
        == "its best accuracy is 0.798 in run.json, its predictions.npz gives 0.698"
    )


@pytest.mark.parametrize("content", [None, b"", b"PK", b"PK\x03\x04" + bytes(100)])
def test_there_is_nothing_to_compare_without_predictions_and_damaged_ones_are_said(
    content: bytes | None, tmp_path: Path
) -> None:
    run = stored(tmp_path, "rte")
    # Never compared: without predictions there is nothing that contradicts it.
    run["results"]["best"]["accuracy"] = 2.0
    (tmp_path / "predictions.npz").unlink()
    if content is not None:
        (tmp_path / "predictions.npz").write_bytes(content)
        with pytest.raises(UNREADABLE):
            disagreement(tmp_path, run)
    else:
        assert disagreement(tmp_path, run) is None
