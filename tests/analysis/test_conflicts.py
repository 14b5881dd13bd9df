"""Runs that cannot be compared: what is shown of the rest, and what is said of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dora.analysis.conflicts import one_configuration
from dora.analysis.grouping import showable
from dora.analysis.view import View
from dora.records import packed
from dora.records.finished import read_runs
from record_files import write_run


def searched(results: Path, task: str = "cola", method: str = "lora") -> None:
    """Writes the runs that a search of rates leaves beside a study's, all in one cell."""
    for i, (lr, select) in enumerate(((0.001, "heldout"), (0.004, "heldout"), (0.002, "dev"))):
        config = {"task": task, "method": {"name": method}, "seed": 1, "lr": lr, "select": select}
        write_run(results, method, 1, 0.5, task=task, key=f"{i}" * 8, config=config)


def test_a_search_beside_a_study_leaves_every_other_cell_shown(tmp_path: Path) -> None:
    searched(tmp_path)
    for method, task in (("dora", "cola"), ("lora", "rte"), ("dora", "rte")):
        write_run(tmp_path, method, 1, 0.6, task=task)
    write_run(tmp_path, "lora", 1, 0.7, model="other")
    found, (problem,) = showable(read_runs(tmp_path))
    # One cell is empty; the other three, and the other table, are as they would be without it.
    assert [t.model for t in found] == ["minilm", "other"]
    values = {
        (row[0], task): list(found[0].values(row, task).values())
        for row in found[0].rows
        for task in found[0].tasks
    }
    assert values == {
        ("lora", "cola"): [],
        ("dora", "cola"): [60],
        ("lora", "rte"): [60],
        ("dora", "rte"): [60],
    }
    assert problem.startswith(
        "CoLA of lora r8 on minilm, data dir: one cell holds 3 configurations: "
    )
    for i in range(3):
        assert str(tmp_path / "runs/dir/cola/minilm/lora/r8" / (f"{i}" * 8)) in problem
    # Values in the order of the folders, so that a reader can tell which is where.
    assert "lr 0.001 | 0.004 | 0.002; select heldout | heldout | dev" in problem
    assert problem.endswith(
        "choose it, as by --where minilm:cola:lora:r8:lr=0.001, or move the others away"
    )
    assert found[0].left_out == ["CoLA of lora r8: its runs are of several configurations"]


def test_seeds_of_a_cell_may_lie_in_a_packed_file_and_in_directories(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, "lora", seed, 0.5 + seed / 10) for seed in (1, 2, 3)]
    packed.write(tmp_path / packed.NAME, folders[:2])
    for folder in folders[:2]:
        shutil.rmtree(folder)
    (table,), problems = showable(read_runs(tmp_path))
    assert problems == []
    assert table.values(("lora", "r8"), "sst2") == pytest.approx({1: 60, 2: 70, 3: 80})


def test_the_choice_that_is_shown_singles_the_largest_configuration_out(tmp_path: Path) -> None:
    searched(tmp_path)
    config = {"task": "cola", "method": {"name": "lora"}, "lr": 0.001, "select": "dev"}
    # Neither the rate nor the way to select is this configuration's alone.
    for seed in (2, 3):
        write_run(
            tmp_path, "lora", seed, 0.5, task="cola", key="9" * 8, config={**config, "seed": seed}
        )
    (problem,) = showable(read_runs(tmp_path))[1]
    words = ("cola:lora:r8:lr=0.001", "cola:lora:r8:select=dev")
    assert f"as by --where {' '.join(words)}, or" in problem
    # The way out that the message names works.
    (table,), problems = showable(read_runs(tmp_path), View(where=words))
    assert (problems, table.values(("lora", "r8"), "cola")) == ([], {2: 50, 3: 50})


@pytest.mark.parametrize(
    ("configurations", "choice"),
    [
        # Seeds of the largest one, then of each other: (settings, arithmetic, number of seeds).
        # A length in epochs has no max_steps, and one in steps no epochs.
        ([({"max_steps": 600}, 2, 3), ({"epochs": 5}, 2, 1)], "max_steps=600"),
        # Records of an earlier arithmetic lack a setting that came later.
        ([({}, 1, 3), ({"patience": 1}, 2, 1), ({"patience": 2}, 2, 1)], "arithmetic=1"),
        ([({"patience": 1}, 2, 3), ({}, 1, 1), ({"patience": 2}, 2, 1)], "patience=1"),
    ],
)
def test_a_setting_that_not_every_run_has_is_chosen_by_runs_that_have_it(
    configurations: list[tuple[dict[str, Any], int, int]], choice: str, tmp_path: Path
) -> None:
    seed = 0
    for i, (changed, number, seeds) in enumerate(configurations):
        for _ in range(seeds):
            seed += 1
            about = {"key": f"{i}" * 8, "config": changed, "arithmetic": number}
            write_run(tmp_path, "lora", seed, 0.5, **about)
    (problem,) = showable(read_runs(tmp_path))[1]
    # A length is chosen for all cells.
    scope = "" if choice.startswith("max_steps") else "sst2:lora:r8:"
    assert f"as by --where {scope}{choice}, " in problem
    (table,), problems = showable(read_runs(tmp_path), View(where=(f"sst2:lora:r8:{choice}",)))
    assert problems == []
    assert table.values(("lora", "r8"), "sst2").keys() == {1, 2, 3}


@pytest.mark.parametrize("budget", ["r8", "none"])
def test_the_choice_that_is_shown_leaves_every_other_cell(budget: str, tmp_path: Path) -> None:
    for seed in (1, 2):
        # A tuned study: each method has its rate, and one of them got another one later.
        for method, lr, score in (("lora", 0.004, 0.5), ("dora", 0.002, 0.6), ("dora", 0.001, 0.7)):
            for task, model in (("rte", "minilm"), ("rte", "other"), ("cola", "minilm")):
                if lr == 0.002 and (task, model) != ("rte", "minilm"):
                    continue
                about = {"key": f"{lr}", "config": {"lr": lr}, "model": model}
                write_run(tmp_path, method, seed, score, task=task, budget=budget, **about)
    (problem,) = showable(read_runs(tmp_path))[1]
    choice = ":".join(["minilm:rte:dora", *([] if budget == "none" else [budget]), "lr=0.001"])
    assert f"choose it, as by --where {choice}, or" in problem
    chosen = choice.replace("0.001", "2e-3")
    found, problems = showable(read_runs(tmp_path), View(where=(chosen,)))
    scores = {
        (table.model, row[0], task): set(table.values(row, task).values())
        for table in found
        for row in table.rows
        for task in table.tasks
    }
    assert problems == []
    assert scores == {
        ("minilm", "lora", "cola"): {50},
        ("minilm", "lora", "rte"): {50},
        ("minilm", "dora", "cola"): {70},
        ("minilm", "dora", "rte"): {60},
        ("other", "lora", "rte"): {50},
        ("other", "dora", "rte"): {70},
    }


def test_a_choice_fills_the_cell_again(tmp_path: Path) -> None:
    searched(tmp_path)
    (table,), problems = showable(read_runs(tmp_path), View(where=("lr=2e-3",)))
    assert problems == []
    assert table.values(("lora", "r8"), "cola") == {1: 50}


def test_a_task_of_several_sets_of_rows_is_left_out_and_the_others_are_shown(
    tmp_path: Path,
) -> None:
    # RTE was prepared twice; SST-2 is the same for both methods.
    for task, marks in (("rte", ["d" * 64, "c" * 64]), ("sst2", ["d" * 64] * 2)):
        for method, mark in zip(("lora", "dora"), marks, strict=True):
            prints = {"data": mark, "model": "e" * 64}
            write_run(tmp_path, method, 1, 0.8, task=task, fingerprints=prints)
    (table,), (problem,) = showable(read_runs(tmp_path))
    assert problem.startswith("rte's rows of data dir are not the same in all runs")
    assert [table.values(row, "sst2") for row in table.rows] == [{1: 80}, {1: 80}]
    assert [table.values(row, "rte") for row in table.rows] == [{}, {}]


def test_a_table_of_two_backbones_is_left_out_and_another_is_shown(tmp_path: Path) -> None:
    for method, mark in (("lora", "a"), ("dora", "b")):
        write_run(
            tmp_path, method, 1, 0.8, model="mine", fingerprints={"model": mark * 64, "data": "d"}
        )
    write_run(tmp_path, "lora", 1, 0.8)
    found, (problem,) = showable(read_runs(tmp_path))
    assert [t.model for t in found] == ["minilm"]
    assert problem.startswith("the weights of model mine are not the same in all runs")


def two_arithmetics(results: Path, **changes: Any) -> None:
    """Writes seeds 1 and 2 without an arithmetic's number, seeds 2 and 3 of arithmetic 2."""
    config = {"task": "sst2", "method": {"name": "dora"}, "lr": 0.001, "device": "auto", **changes}
    for seed in (1, 2):
        write_run(
            results,
            "dora",
            seed,
            0.5,
            key="a" * 8,
            config={**config, "lr": 0.001, "seed": seed, "device": "cpu"},
        )
    for seed in (2, 3):
        write_run(
            results, "dora", seed, 0.6, key="b" * 8, config={**config, "seed": seed}, arithmetic=2
        )


def test_two_arithmetics_in_a_cell_are_named_with_their_folders(tmp_path: Path) -> None:
    two_arithmetics(tmp_path)
    runs = read_runs(tmp_path)
    kept, problem = one_configuration(runs)
    folders = [runs[0]["folder"].parent, runs[-1]["folder"].parent]
    assert kept == []
    said = "2 arithmetics of this package, which give one configuration other bits: "
    assert f"{said}1 in {folders[0]} | 2 in {folders[1]}" in str(problem)
    assert "--where arithmetic=2" in str(problem)
    assert "--mix-arithmetic" in str(problem)


def test_mixed_arithmetics_give_the_newer_run_of_a_seed(tmp_path: Path) -> None:
    two_arithmetics(tmp_path)
    (table,), problems = showable(read_runs(tmp_path), View(mix=True))
    assert problems == []
    assert table.values(("dora", "r8"), "sst2") == {1: 50, 2: 60, 3: 60}
    # A table of mixed runs never overwrites one of a single arithmetic.
    assert table.name == "dir-minilm-best-mixed_arithmetic"


def test_arithmetics_are_not_mixed_where_anything_else_differs(tmp_path: Path) -> None:
    two_arithmetics(tmp_path, lr=0.002)
    kept, problem = one_configuration(read_runs(tmp_path), mix=True)
    assert kept == []
    assert "arithmetic 1 | 2; lr 0.001 | 0.002" in str(problem)


@pytest.mark.parametrize("numbers", [(1, 1), (2, 2)])
def test_runs_of_one_arithmetic_are_one_cell(numbers: tuple[int, int], tmp_path: Path) -> None:
    for seed, number in enumerate(numbers, 1):
        write_run(tmp_path, "dora", seed, 0.5, arithmetic=number)
    runs = read_runs(tmp_path)
    assert one_configuration(runs) == (runs, None)


def test_a_setting_that_an_earlier_arithmetic_did_not_have_is_no_difference(tmp_path: Path) -> None:
    two_arithmetics(tmp_path, decay_all=False)
    for run in (runs := read_runs(tmp_path)):
        if run.get("arithmetic", 1) == 1:
            del run["config"]["decay_all"]
    kept, problem = one_configuration(runs, mix=True)
    assert ([run["seed"] for run in kept], problem) == ([1, 2, 3], None)


def test_a_setting_under_its_former_name_is_no_difference(tmp_path: Path) -> None:
    for seed, (setting, number) in enumerate(
        [({"group_by_length": True}, 3), ({"batching": "length"}, 4)], 1
    ):
        write_run(tmp_path, "dora", seed, 0.5, key=f"{seed}" * 8, config=setting, arithmetic=number)
    runs = read_runs(tmp_path)
    # Only the arithmetic tells them apart, so that they may be mixed.
    kept, problem = one_configuration(runs, mix=True)
    assert ([run["seed"] for run in kept], problem) == ([1, 2], None)


def test_a_method_setting_that_came_later_has_the_value_of_the_runs_before_it(
    tmp_path: Path,
) -> None:
    for key, method in enumerate(({}, {"server_step": "relative"}), 1):
        whole = {"method": {"name": "lora_fair", **method}}
        write_run(tmp_path, "lora_fair", key, 0.5, key=f"{key}" * 8, config=whole)
    (problem,) = showable(read_runs(tmp_path))[1]
    assert "which differ in method.server_step fixed | relative: " in problem
    for step, seed in (("fixed", 1), ("relative", 2)):
        (table,), problems = showable(
            read_runs(tmp_path), View(where=(f"method.server_step={step}",))
        )
        assert problems == []
        assert table.values(("lora_fair", "r8"), "sst2") == {seed: 50}
