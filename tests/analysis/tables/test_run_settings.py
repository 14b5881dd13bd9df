"""The table of settings and the time of a study, against records whose settings are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dora.analysis.finished import read_runs
from dora.analysis.grouping import Table, note_search, tables
from dora.analysis.tables.contents import costs
from dora.analysis.tables.run_settings import run_settings
from dora.analysis.view import View
from dora.records.directories import directories
from dora.records.study import look
from record_files import write_run
from runs import change_record


def only_table(results: Path, view: View | None = None) -> Table:
    (found,) = tables(read_runs(results), view)
    return found


def study(results: Path) -> None:
    """Writes runs of three methods on two tasks, with settings of every scope."""
    rates = {"rte": {"lora": 5e-4, "dora": 4e-3, "full": 5e-5}}
    rates["sst2"] = {"lora": 2.8284271247461903e-3, "dora": 4e-3, "full": 2e-5}
    for task, by_method in rates.items():
        for method, lr in by_method.items():
            own: dict[str, Any] = {"name": method}
            if method != "full":
                own |= {"alpha": 16.0, "remove": True}
            if method == "dora":
                own["dem"] = 0.1 if task == "rte" else 0.5
            config = {
                "method": own,
                "lr": lr,
                "head_lr": lr,
                "warmup": 0.06,
                "decay_all": False,
                "patience": None,
                "max_steps": 600 if task == "rte" else 1800,
                "weight_decay": 0.1 if method == "full" else 0.0,
                "results": "/home/somebody/results",
                "threads": 2,
            }
            write_run(
                results, method, 1, 0.8, task, "none" if method == "full" else "r8", config=config
            )


def test_a_setting_is_said_once_and_as_widely_as_it_holds(tmp_path: Path) -> None:
    study(tmp_path)
    grid = run_settings(only_table(tmp_path))
    assert grid.head == ["method", "budget", "setting", "SST-2", "RTE"]
    assert grid.rows == [
        ["every method", "–", "max_steps", "1800", "600"],
        ["full fine-tuning", "–", "lr", "2e-5", "5e-5"],
        ["LoRA", "r8", "lr", "2.83e-3", "5e-4"],
        ["DoRA (dynamic rank)", "r8", "lr", "4e-3", "4e-3"],
        ["DoRA (dynamic rank)", "r8", "dem", "0.5", "0.1"],
    ]
    assert grid.rules == {1, 2}
    assert grid.notes == [
        "lr: the peak learning rate, of the head too; settings that are off are left out",
        # Full fine-tuning has no target, and so none that could be another.
        "every run: batch_size 16, max_length 128, select dev, precision fp32, warmup 0.06, target q,v",
        "full fine-tuning: weight_decay 0.1",
        # A 0 is a value. What came to a method after these records has the value of such runs.
        "LoRA: weight_decay 0, scaling standard, lr_ratio 1, init kaiming, deal spread, alpha 16, "
        "remove on",
        "DoRA (dynamic rank): weight_decay 0, alpha 16, remove on, importance share",
    ]


def test_another_rate_of_the_head_has_lines_of_its_own(tmp_path: Path) -> None:
    for task, head in (("rte", 1e-3), ("sst2", 5e-4)):
        write_run(tmp_path, "lora", 1, 0.8, task, config={"lr": 1e-3, "head_lr": head})
    grid = run_settings(only_table(tmp_path))
    assert [row[2:] for row in grid.rows] == [["lr", "1e-3", "1e-3"], ["head_lr", "5e-4", "–"]]
    assert "head_lr: the head's, where it is another" in grid.notes[0]


def test_a_cell_without_runs_is_a_dash_and_budgets_are_named_where_they_differ(
    tmp_path: Path,
) -> None:
    for budget, alpha in (("r8", 16), ("r16", 32)):
        config = {"method": {"name": "lora", "alpha": alpha}}
        write_run(tmp_path, "lora", 1, 0.8, "rte", budget, config=config)
    write_run(tmp_path, "dora", 1, 0.8, "sst2", "r8")
    grid = run_settings(only_table(tmp_path))
    assert [row[1:] for row in grid.rows] == [
        ["r8", "lr", "–", "1e-3"],
        ["r8", "lr", "1e-3", "–"],
        ["r16", "lr", "–", "1e-3"],
    ]
    of_methods = [(note[: note.index(":")], note[-8:]) for note in grid.notes[2:]]
    assert of_methods[0] == ("LoRA r8", "alpha 16")
    assert of_methods[2] == ("LoRA r16", "alpha 32")
    assert of_methods[1][0] == "DoRA (dynamic rank)"


def test_transposed_the_settings_stand_above_each_other(tmp_path: Path) -> None:
    study(tmp_path)
    grid = run_settings(only_table(tmp_path, View(transposed=True)))
    assert [row[0] for row in grid.rows] == ["SST-2", "RTE"]
    assert grid.head[-1] == "DoRA (dynamic rank) r8 dem"


def test_the_time_in_all_is_of_all_runs_and_of_their_own_search(tmp_path: Path) -> None:
    # 10 s a seed (record_files.py): 30 + 30 s; of the search 10 s a candidate.
    for method in ("lora", "dora"):
        for seed in (1, 2):
            write_run(tmp_path, method, seed, 0.8)
    search = tmp_path / "search"
    for key, lr in (("aaaaaaaa", 1e-3), ("bbbbbbbb", 2e-3)):
        write_run(search, "lora", 1, 0.8, key=key, config={"lr": lr, "select": "heldout"})
    # Stopped after 4 s, which it has taken; other methods, tasks and lengths are not the table's.
    stopped = write_run(search, "dora", 1, 0.8, key="cccccccc")
    change_record(stopped, status="stopped", progress={"step": 3, "total_steps": 90, "seconds": 4})
    write_run(search, "sora", 1, 0.8)
    write_run(search, "dora", 1, 0.8, task="rte")
    write_run(search, "dora", 1, 0.8, key="dddddddd", total_steps=180)
    seen = [look(folder) for folder in directories(search)]

    def note(view: View) -> str:
        table = only_table(tmp_path, view)
        note_search(table, seen)
        return costs(table).notes[-1]

    assert note(View()) == ("training in all: 4 runs, 60 s; the search of settings: 4 runs, 34 s")
    assert note(View(by_length=True)) == (
        "training in all: 4 runs, 60 s; the search of settings: 3 runs, 24 s"
    )
    assert costs(only_table(tmp_path)).notes[-1] == "training in all: 4 runs, 60 s"
