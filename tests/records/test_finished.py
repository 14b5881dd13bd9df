"""Finished runs are read once, believed or left out by name, with what they predicted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dora.records import artefacts
from dora.records.finished import read_runs
from record_files import write_run
from runs import change_record


@pytest.mark.parametrize("content", ["", '{"status": "do', "{}", "[1]"])
def test_a_damaged_record_is_left_out_and_said(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    path = write_run(tmp_path, "lora", 2, 0.9) / "run.json"
    path.write_text(content)
    assert [run["seed"] for run in read_runs(tmp_path)] == [1]
    assert f"left out: {path} cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        {"results": None},
        {"seed": "1"},
        {"config": None},
        {"params": {}},
        {"arithmetic": "x"},
        {"evaluations": 3},
        {"results": {"best": {"accuracy": "high"}, "last": {}}},
        {"results": {"best": {"accuracy": float("nan")}, "last": {}}},
    ],
)
def test_a_damaged_record_is_left_out_and_the_rest_is_read(
    damage: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        folder = write_run(tmp_path, "lora", seed, 0.5)
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    assert [run["seed"] for run in read_runs(tmp_path)] == [1]
    assert f"left out: {path} cannot be read" in capsys.readouterr().err


def test_a_copy_beside_a_run_is_not_counted(tmp_path: Path) -> None:
    path = write_run(tmp_path, "lora", 1, 0.8)
    # As somebody makes before trying something; it would count as another seed.
    shutil.copytree(path, path.with_name("s1_old"))
    assert [run["folder"] for run in read_runs(tmp_path)] == [path]


@pytest.mark.parametrize("kept", [0, 10, 300])
def test_damaged_predictions_are_left_out_and_said_once(
    kept: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.arange(60) % 2
    path = write_run(tmp_path, "lora", 1, 0.8, labels=labels, predicted=labels) / "predictions.npz"
    path.write_bytes(path.read_bytes()[:kept])
    (run,) = read_runs(tmp_path)  # the record itself is shown
    assert run["seed"] == 1
    assert capsys.readouterr().err.count(f"left out: {path} cannot be read") == 1
    assert run["predicted"] == {}
    # Read again, as tables and figures of one process do, and not said again.
    assert read_runs(tmp_path)[0]["predicted"] == {}
    assert capsys.readouterr().err == ""


def test_stored_predictions_are_classes_or_the_regressions_score(tmp_path: Path) -> None:
    labels, said = np.array([0, 1, 1]), np.array([1, 1, 0])
    write_run(tmp_path, "lora", 1, 1 / 3, labels=labels, predicted=said)
    # STS-B is a regression: one output, which is the prediction itself.
    path = write_run(tmp_path, "lora", 1, 1.0, task="stsb", metrics={"spearmanr": 1.0})
    np.savez(
        path / "predictions.npz",
        **{"dev/labels": np.array([1.5, 2]), "best/dev/logits": np.array([[1.2], [3.4]])},
    )
    write_run(tmp_path, "lora", 1, 0.8, task="rte")
    sst2, stsb, rte = (
        next(r for r in read_runs(tmp_path) if f"/{t}/" in str(r["folder"]))
        for t in ("sst2", "stsb", "rte")
    )
    assert [a.tolist() for a in sst2["predicted"]["best"]] == [[0, 1, 1], [1, 1, 0]]
    assert [a.tolist() for a in stsb["predicted"]["best"]] == [[1.5, 2], [1.2, 3.4]]
    # The last evaluation of stsb has no logits, and rte no predictions at all.
    assert "last" not in stsb["predicted"]
    assert rte["predicted"] == {}


def test_predictions_that_are_not_as_the_run_wrote_them_are_said_whatever_they_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.arange(60) % 2
    folder = write_run(tmp_path, "lora", 1, 1.0, labels=labels, predicted=labels)
    # The record now knows the file's checksum.
    change_record(folder, files=artefacts.sums(folder, ["predictions.npz"]))
    assert read_runs(tmp_path)[0]["seed"] == 1
    assert capsys.readouterr().err == ""
    # Other logits with the same classes, so that no score contradicts the record.
    np.savez(
        folder / "predictions.npz",
        **{"dev/labels": labels, "best/dev/logits": 2 * np.eye(2)[labels]},
    )
    assert read_runs(tmp_path)[0]["seed"] == 1
    assert (
        f"left out: {folder / 'predictions.npz'} cannot be read (is damaged or another's"
        in capsys.readouterr().err
    )
