"""Runs of several lengths: a table for each, and the figure of score against steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora.analysis.figures import write_by_length
from dora.analysis.finished import read_runs
from dora.analysis.grouping import Table, View, showable
from dora.analysis.length_figures import score_by_length
from record_files import write_run

# Mean of two seeds at each length: LoRA ahead by 8 at 600 steps, DoRA by 4 at 2,400.
SCORES = {"lora": {600: 0.80, 2400: 0.82}, "dora": {600: 0.72, 2400: 0.86}}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for method, by_steps in SCORES.items():
        for steps, score in by_steps.items():
            for seed, more in ((1, 0.01), (2, -0.01)):
                about = {"config": {"max_steps": steps}, "total_steps": steps}
                write_run(tmp_path, method, seed, score + more, key=f"{steps:08d}", **about)
    return tmp_path


def by_length(results: Path) -> list[Table]:
    found, problems = showable(read_runs(results), View(by_length=True))
    assert problems == []
    return found


def test_runs_of_several_lengths_are_a_table_each_and_never_one(results: Path) -> None:
    found, problems = showable(read_runs(results))
    assert found == []
    told = (
        "max_steps 600 | 2400: a table compares one; choose it, as by --where max_steps=600, show "
    )
    told += "each length by --by-length, or move the others away"
    assert len(problems) == 2
    assert all(told in problem for problem in problems)
    assert {table.name: table.values(("dora", "r8"), "sst2") for table in by_length(results)} == {
        "dir-minilm-best-600steps": {1: 73.0, 2: 71.0},
        "dir-minilm-best-2400steps": {1: 87.0, 2: 85.0},
    }


def test_methods_cross_where_their_lines_do_in_the_logarithm_of_the_steps(results: Path) -> None:
    drawn = score_by_length(by_length(results))
    assert drawn is not None
    lines = [p for p in drawn[1] if not p["crosses"]]
    assert {(p["method"], p["steps"]): p["mean"] for p in lines} == {
        (method, steps): pytest.approx(100 * score)
        for method, by_steps in SCORES.items()
        for steps, score in by_steps.items()
    }
    # From -8 to +4: two thirds of the way from 600 to 2,400, which is 600 * 4 ** (2 / 3).
    (crossing,) = (p for p in drawn[1] if p["crosses"])
    assert (crossing["method"], crossing["steps"]) == ("dora", 1512)
    assert crossing["mean"] == pytest.approx(72 + 14 * 2 / 3)


def test_one_length_is_no_figure(results: Path, tmp_path: Path) -> None:
    names = write_by_length(by_length(results), tmp_path / "figures")
    assert names == ["dir-minilm-best-score-by-length"]
    endings = {file.suffix for file in (tmp_path / "figures").glob(f"{names[0]}.*")}
    assert endings == {".png", ".pdf", ".svg", ".csv"}
    longest = [table for table in by_length(results) if table.steps == 2400]
    assert write_by_length(longest, tmp_path / "figures") == []
