"""The table of a study that is not whole yet."""

from __future__ import annotations

from pathlib import Path

from dora.analysis.tables import progress
from dora.records import gaps
from record_files import write_run


def test_runs_of_unequal_lengths_and_settings_are_not_averaged(tmp_path: Path) -> None:
    for key, steps, seed, score in [
        ("a", 600, 1, 0.40),
        ("a", 600, 2, 0.50),
        ("b", 1800, 1, 0.70),
        ("c", 1800, 1, 0.62),  # at another rate
        ("c", 1800, 2, 0.64),
    ]:
        write_run(tmp_path, "lora", seed, score, key=key, config={"max_steps": steps})
    lines = [line.split() for line in progress.table(gaps.scan(tmp_path)).splitlines()]
    at = lines[0].index("budget") + 1
    assert lines[0][at : at + 2] == ["length", "done"]
    assert lines[1][at:] == ["600", "steps", "2", "45.0"]
    assert lines[2][at:] == ["1800", "steps", "3", "63.0", "to", "70.0"]


def test_budgets_stand_by_kind_and_size(tmp_path: Path) -> None:
    for budget in ("0.3M", "9k", "r16", "r8"):
        write_run(tmp_path, "lora", 1, 0.9, budget=budget)
    lines = progress.table(gaps.scan(tmp_path)).splitlines()
    done = [line.split()[4] for line in lines if line.split()[5:] == ["1", "90.0"]]
    assert done == ["r8", "r16", "9k", "0.3M"]
