"""The table: finished runs only, one configuration a cell, holes and marks shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dora.tables import cells, notes, read_runs, table


def write_run(
    folder: Path, method: str, seed: int, accuracy: float | None, key: str = "abcd1234", **changes: Any
) -> None:
    """A run.json as a run leaves it, cut to what a table reads."""
    path = folder / "runs" / "dir" / "sst2" / "minilm" / method / "r8" / key / f"s{seed}"
    path.mkdir(parents=True)
    metrics = {} if accuracy is None else {"accuracy": accuracy}
    run = {
        "status": "done", "embedded": None, "note": None, "train_s": 10.0 * seed, "git": {"dirty": False},
        "params": {"trainable": 1000, "head": 100, "adapter_end": 900},
        "evaluations": {"counted": 3},
        "results": {"best": {"step": 5, "degenerate": None, **metrics}, "last": {"step": 9, **metrics}},
        **changes,
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(run))


def row(results: Path, method: str) -> list[str]:
    (line,) = [line for line in table(cells(read_runs(results))).splitlines() if f" {method} " in line]
    return [value.strip() for value in line.strip("|").split("|")]


def test_a_cell_holds_mean_and_standard_deviation_of_its_seeds(tmp_path: Path) -> None:
    for seed, accuracy in ((1, 0.80), (2, 0.82), (3, 0.87)):
        write_run(tmp_path, "lora", seed, accuracy)
    cell = row(tmp_path, "lora")
    assert cell[5:7] == ["3", "900"]
    assert cell[9] == "83.0 ± 3.6"  # by hand: deviations -3, -1, 4; sqrt(26 / 2)
    assert cell[11] == "20"


def test_only_finished_runs_count_and_a_missing_metric_is_a_hole(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, "lora", 2, 0.9, status="failed")
    write_run(tmp_path, "lora", 3, None)
    write_run(tmp_path, "dora", 1, None)
    assert row(tmp_path, "lora")[9] == "80.0 (n = 1/2)"
    assert row(tmp_path, "dora")[9] == "–"


def test_two_configurations_for_one_cell_are_an_error_that_names_both(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, "lora", 1, 0.9, key="ffff0000")
    with pytest.raises(ValueError, match=r"(?s)abcd1234.*ffff0000"):
        cells(read_runs(tmp_path))


def test_degenerate_and_dirty_runs_are_marked_and_explained(tmp_path: Path) -> None:
    best = {"step": 5, "degenerate": "one class", "accuracy": 0.5}
    write_run(
        tmp_path, "lora", 1, 0.5, results={"best": best, "last": best}, git={"dirty": True}, embedded="tiny"
    )
    grouped = cells(read_runs(tmp_path))
    assert row(tmp_path, "lora")[9] == "50.0*†"
    assert {"tiny", "* at least one run predicts a single class"} <= set(notes(grouped))


@pytest.mark.parametrize("command", [["-m", "dora.tables"], ["scripts/demo.py"], ["scripts/budgets.py"],
                                     ["scripts/make_tiny.py"]])  # fmt: skip
def test_every_other_command_has_a_help_that_shows_how_to_call_it(command: list[str]) -> None:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
