"""Pairs are of one task, method, budget and seed; their differences get a t interval."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import stats

from dora.analysis.view import View
from dora.errors import UserError
from record_files import write_run
from runs import load_script

script = load_script("paired")


def table(*folders: Path, by: str | None = None) -> list[list[str]]:
    """Returns the cells of the table's lines below its head."""
    found = script.paired(*script.sides(folders, by, View()))
    return [line.strip("| ").split(" | ") for line in list(script.lines(found, View()))[2:]]


def two_precisions(results: Path) -> None:
    """Writes runs of LoRA on RTE and MRPC in fp32 and bf16, and one seed in fp32 alone."""
    points = {"fp32": (80, 82, 81, 70), "bf16": (81, 84, 84)}
    for precision, of_seeds in points.items():
        for task in ("rte", "mrpc"):
            for seed, score in enumerate(of_seeds, 1):
                config = {"precision": precision, "lr": 0.002}
                key = precision * 2  # in place of the configuration's hash
                write_run(results, "lora", seed, score / 100, task, key=key, config=config)


def test_the_interval_is_that_of_the_differences_by_seed(tmp_path: Path) -> None:
    two_precisions(tmp_path)
    mrpc, rte, average = table(tmp_path, by="precision=fp32,bf16")
    low, high = stats.t.interval(0.95, 2, loc=2, scale=1 / 3**0.5)  # of 1, 2, 3
    shown = ["3", "81.00", "83.00", "+2.00", f"{low:+.2f} to {high:+.2f}"]
    assert mrpc == ["dir", "minilm", "lora r8", "MRPC acc", *shown]
    assert rte == ["dir", "minilm", "lora r8", "RTE acc", *shown]
    # Two tasks of equal variance: error 1 / √3 / √2, with 4 degrees of freedom.
    low, high = stats.t.interval(0.95, 4, loc=2, scale=1 / 6**0.5)
    assert average[3:] == ["average", *shown[:-1], f"{low:+.2f} to {high:+.2f}"]


def test_a_key_alone_takes_its_two_values_in_alphabetical_order(tmp_path: Path) -> None:
    two_precisions(tmp_path)
    assert table(tmp_path, by="precision")[0][5:8] == ["83.00", "81.00", "-2.00"]
    write_run(tmp_path, "dora", 1, 0.5, config={"precision": "fp16"})
    with pytest.raises(UserError, match="the finished runs have bf16, fp16, fp32"):
        table(tmp_path, by="precision")
    with pytest.raises(UserError, match="no such setting"):
        table(tmp_path, by="precison")


def test_two_folders_are_compared_where_both_have_a_run(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, number, points in ((a, 3, (0.5, 0.6, 0.7)), (b, 4, (0.6, 0.7))):
        for seed, score in enumerate(points, 1):
            write_run(folder, "lora", seed, score, "rte", arithmetic=number)
    write_run(a, "dora", 1, 0.5, "rte")  # without a partner
    # Equal differences show no error.
    assert table(a, b) == [
        ["dir", "minilm", "lora r8", "RTE acc", "2", "55.00", "65.00", "+10.00", "–"]
    ]
    differ, made_a, made_b, made_here = script.notes(
        script.paired(*script.sides([a, b], None, View()))
    )
    assert differ == "The runs of a pair differ in: arithmetic: 3 in A, 4 in B"
    assert (made_a, made_b) == ("A: commit 0000000; torch None", "B: commit 0000000; torch None")
    assert "commit" in made_here


def test_folders_without_a_common_run_and_ambiguous_cells_are_refused(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    write_run(a, "lora", 1, 0.5)
    write_run(b, "lora", 2, 0.5)
    assert script.paired(*script.sides([a, b], None, View())) == {}
    with pytest.raises(UserError, match="give two results folders, or one and --by"):
        script.sides([a], None, View())
    write_run(a, "lora", 2, 0.5, key="b" * 8, config={"lr": 0.1})
    with pytest.raises(UserError, match="one cell holds 2 configurations"):
        script.sides([a, b], None, View())
