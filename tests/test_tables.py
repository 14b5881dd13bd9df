"""The tables: finished runs only, one configuration a cell, holes and marks shown, differences paired."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dora.data.tasks import TASKS
from dora.tables import Table, costs, differences, notes, read_runs, scores, tables


def write_run(
    folder: Path,
    method: str,
    seed: int,
    score: float | None,
    task: str = "sst2",
    budget: str = "r8",
    key: str = "abcd1234",
    **changes: Any,
) -> None:
    """A run.json as a run leaves it, cut to what a table reads."""
    path = folder / "runs" / "dir" / task / "minilm" / method / budget / key / f"s{seed}"
    path.mkdir(parents=True)
    metrics = {} if score is None else {TASKS[task].metrics[0]: score}
    run = {
        "status": "done", "seed": seed, "embedded": None, "note": None, "train_s": 10.0 * seed,
        "git": {"dirty": False}, "params": {"trainable": 1000, "head": 100, "adapter_end": 900},
        "evaluations": {"counted": 3}, "peak_memory_bytes": 2**20 * 7,
        "results": {"best": {"step": 5, "degenerate": None, **metrics},
                    "last": {"step": 9, "degenerate": None, **metrics}},
        **changes,
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(run))


def only_table(results: Path) -> Table:
    (found,) = tables(read_runs(results))
    return found


def fields(text: str, *first: str) -> list[str]:
    """The fields of the one line that begins with these."""
    rows = [[v.strip() for v in line.strip("|").split("|")] for line in text.splitlines()]
    (row,) = [r for r in rows if r[: len(first)] == list(first)]
    return row


def test_a_cell_holds_mean_and_standard_deviation_of_its_seeds(tmp_path: Path) -> None:
    for seed, accuracy in ((1, 0.80), (2, 0.82), (3, 0.87)):
        write_run(tmp_path, "lora", seed, accuracy)
    table = only_table(tmp_path)
    # By hand: deviations -3, -1, 4; sqrt(26 / 2).
    assert fields(scores(table, "best"), "lora") == ["lora", "r8", "900", "83.0 ± 3.6"]
    assert fields(costs(table), "lora") == ["lora", "r8", "3", "100", "20", "7"]


def test_the_average_has_its_interval_and_leaves_wnli_out(tmp_path: Path) -> None:
    for seed, sst2, rte in ((1, 0.80, 0.60), (2, 0.82, 0.60), (3, 0.84, 0.60)):
        write_run(tmp_path, "lora", seed, sst2)
        write_run(tmp_path, "lora", seed, rte, task="rte")
        write_run(tmp_path, "lora", seed, 0.5, task="wnli")
    text = scores(only_table(tmp_path), "best")
    assert fields(text, "method")[3:] == ["SST-2 acc", "RTE acc", "average [95 %]", "WNLI acc"]
    # By hand: sd 2, error 2 / sqrt(3) / 2 tasks, 2 degrees of freedom, t = 4.303: 71 ± 2.484.
    row = fields(text, "lora")[3:]
    assert row == ["82.0 ± 2.0", "60.0 ± 0.0", "71.0 [68.5, 73.5]", "50.0 ± 0.0"]


def test_full_fine_tuning_comes_first_then_budget_by_budget_with_lora_first(tmp_path: Path) -> None:
    for method, budget in (
        ("dora", "55296"),
        ("lora", "55296"),
        ("dora", "9000"),
        ("lora", "9000"),
        ("full", "none"),
    ):
        write_run(tmp_path, method, 1, 0.8, budget=budget)
    assert only_table(tmp_path).rows == [
        ("full", "none"), ("lora", "9000"), ("dora", "9000"), ("lora", "55296"), ("dora", "55296"),
    ]  # fmt: skip
    text = scores(only_table(tmp_path), "best")
    assert fields(text, "full")[1:3] == ["–", "all 900"]
    assert fields(text, "lora", "55,296")[3] == "80.0"


def test_only_finished_runs_count_and_what_is_missing_is_a_hole(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, "lora", 2, 0.9, status="failed")
    write_run(tmp_path, "lora", 3, None)
    write_run(tmp_path, "dora", 1, None)
    write_run(tmp_path, "dora", 1, 0.5, task="rte")
    text = scores(only_table(tmp_path), "best")
    assert fields(text, "lora")[3:] == ["80.0 (n = 1/2)", "–", "–"]
    assert fields(text, "dora")[3:] == ["–", "50.0 (n = 1/2)", "–"]


def test_two_configurations_for_one_cell_are_an_error_that_names_both(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, "lora", 1, 0.9, key="ffff0000")
    with pytest.raises(ValueError, match=r"(?s)abcd1234.*ffff0000"):
        tables(read_runs(tmp_path))


def test_degenerate_and_dirty_runs_are_marked_and_explained(tmp_path: Path) -> None:
    best = {"step": 5, "degenerate": "one class", "accuracy": 0.5}
    write_run(
        tmp_path, "lora", 1, 0.5, results={"best": best, "last": best}, git={"dirty": True}, embedded="tiny"
    )
    table = only_table(tmp_path)
    assert fields(scores(table, "best"), "lora")[3] == "50.0*†"
    assert {"tiny", "* at least one run predicts a single class or value"} <= set(notes(table, "best"))


def test_differences_are_paired_by_seed_at_the_same_budget(tmp_path: Path) -> None:
    for seed, lora, dora in ((1, 0.80, 0.81), (2, 0.60, 0.62), (3, 0.70, 0.73)):
        write_run(tmp_path, "lora", seed, lora)
        write_run(tmp_path, "dora", seed, dora)
    write_run(tmp_path, "dora", 4, 0.1)  # no LoRA run of this seed
    text = differences(only_table(tmp_path), "best")
    assert text is not None
    # By hand: differences 1, 2, 3; error 1 / sqrt(3); t(0.975, 2) = 4.303, t(0.8, 2) = 1.061.
    assert fields(text, "dora") == ["dora", "r8", "+2.0 [-0.5, +4.5]", "3.1", "3"]


def test_there_are_no_differences_without_two_seeds(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, "dora", 1, 0.8)
    assert differences(only_table(tmp_path), "best") is None


def test_best_of_unequal_numbers_of_evaluations_is_said(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, "dora", 1, 0.8, evaluations={"counted": 9})
    table = only_table(tmp_path)
    assert any("--score last" in line for line in notes(table, "best"))
    assert not any("--score last" in line for line in notes(table, "last"))


@pytest.mark.parametrize("command", [["-m", "dora.tables"], ["scripts/demo.py"], ["scripts/budgets.py"],
                                     ["scripts/pretrain_tiny.py"]])  # fmt: skip
def test_every_other_command_has_a_help_that_shows_how_to_call_it(command: list[str]) -> None:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
