"""The table of a study that is not whole yet."""

from __future__ import annotations

from pathlib import Path

from dora.analysis.grouping import tables
from dora.analysis.tables import progress
from dora.analysis.tables.scores import scores
from dora.records import gaps
from dora.records.finished import read_runs
from record_files import write_run
from runs import change_record


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


def test_a_time_left_that_nothing_tells_is_said_to_be_unknown(tmp_path: Path) -> None:
    def left() -> list[str]:
        lines = progress.report(gaps.scan(tmp_path), tmp_path)
        return [line for line in lines if line.startswith("left: ")]

    stopped = write_run(tmp_path, "lora", 1, 0.9, status="stopped")
    assert left() == ["left: not known, since no run like these is done"]
    write_run(tmp_path, "lora", 2, 0.9)
    assert left() == ["left: about 20 s of training, 1 run"]
    change_record(stopped, status="done")
    assert left() == []


def test_budgets_stand_by_kind_and_size(tmp_path: Path) -> None:
    for budget in ("0.3M", "9k", "r16", "r8"):
        write_run(tmp_path, "lora", 1, 0.9, budget=budget)
    lines = progress.table(gaps.scan(tmp_path)).splitlines()
    done = [line.split()[4] for line in lines if line.split()[5:] == ["1", "90.0"]]
    assert done == ["r8", "r16", "9k", "0.3M"]


def test_a_score_is_the_one_of_the_table_of_scores(tmp_path: Path) -> None:
    # 36.75 and 40.75 points: as fractions their mean is below 38.75.
    for seed, score in ((1, 0.3675), (2, 0.4075)):
        write_run(tmp_path, "lora", seed, score, task="mnli")
    write_run(tmp_path, "lora", 1, 0.5, task="stsb")
    collapsed = {"step": 5, "degenerate": "all 1500 predictions are 2.50"}
    both = {"best": collapsed, "last": collapsed}
    write_run(tmp_path, "lora", 2, None, task="stsb", results=both)
    (table,) = tables(read_runs(tmp_path))
    of_table = [cell.split(" ± ")[0].rstrip("*") for cell in scores(table).rows[0][3:5]]
    lines = progress.table(gaps.scan(tmp_path)).splitlines()
    of_status = {line.split()[1]: line.split()[-1] for line in lines[1:]}
    assert of_table == [of_status["stsb"], of_status["mnli"]] == ["25.0", "38.8"]
