"""A run's settings have the keys of today, whatever they were called when it was trained."""

from __future__ import annotations

from pathlib import Path

from dora.analysis.settings import settings
from dora.records.finished import read_runs
from record_files import write_run


def test_a_setting_under_its_former_name_has_the_name_of_today(tmp_path: Path) -> None:
    for seed, by_length in enumerate((True, False), 1):
        write_run(tmp_path, "dora", seed, 0.5, config={"group_by_length": by_length})
    found = [settings(run) for run in read_runs(tmp_path)]
    assert [its["batching"] for its in found] == ["length", "random"]
    assert not any("group_by_length" in its for its in found)


def test_a_former_key_with_a_strange_value_stays_as_it_is(tmp_path: Path) -> None:
    write_run(tmp_path, "dora", 1, 0.5, config={"group_by_length": "x"})
    (run,) = read_runs(tmp_path)
    assert settings(run)["group_by_length"] == "x"
    assert "batching" not in settings(run)
