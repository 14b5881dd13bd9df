"""The table of settings and the time of a study, against records whose settings are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dora.analysis.grouping import tables
from dora.analysis.other_runs import search_seconds
from dora.analysis.table import Table
from dora.analysis.tables.costs import costs
from dora.analysis.tables.run_settings import run_settings
from dora.analysis.view import View
from dora.records.directories import directories
from dora.records.finished import read_runs
from dora.records.study import look
from record_files import write_run
from runs import change_record, command


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
        "every run: batch_size 16, max_length 128, head_dropout the model's, select dev, "
        "precision fp32, warmup 0.06",
        # Full fine-tuning has no target, and so none that could be another.
        "all but full fine-tuning: target q,v",
        "full fine-tuning: weight_decay 0.1",
        # A 0 is a value. What came to a method after these records has the value of such runs.
        "LoRA: weight_decay 0, alpha 16, remove on, scaling standard, lr_ratio 1, init kaiming, "
        "deal spread",
        "DoRA (dynamic rank): weight_decay 0, alpha 16, remove on, importance share",
    ]


def test_what_some_methods_alone_have_is_said_of_these(tmp_path: Path) -> None:
    clients = {"clients": 3, "alpha": 0.5}
    for task in ("rte", "sst2"):
        for method in ("lora", "sora", "fedit", "ffa_lora"):
            steps = {"local_steps": 10 if task == "rte" else 20}
            config = {"fed": {**clients, **steps}} if method.startswith("f") else {}
            write_run(tmp_path, method, 1, 0.8, task, config=config)
        write_run(tmp_path, "full", 1, 0.8, task, "none")
    grid = run_settings(only_table(tmp_path))
    assert "fedit, ffa_lora: fed.clients 3, fed.alpha 0.5" in grid.notes
    assert "all but full fine-tuning: target q,v" in grid.notes
    assert not any("fed" in note for note in grid.notes if note.startswith("every run"))
    # LoRA is none of "every method" that has local steps.
    assert [row[0] for row in grid.rows if row[2] == "fed.local_steps"] == ["fedit", "ffa_lora"]


def test_a_null_that_stands_for_something_is_not_taken_for_off(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8, config={"eval_every": None, "limit_train": None})
    write_run(tmp_path, "dora", 1, 0.8, config={"eval_every": 50, "head_dropout": 0.0})
    of_lora, of_dora = run_settings(only_table(tmp_path)).notes[2:]
    assert "head_dropout the model's" in of_lora
    assert "eval_every each epoch, limit_train all rows" in of_lora
    assert "head_dropout 0" in of_dora
    assert "eval_every 50" in of_dora


def test_values_that_differ_are_printed_so(tmp_path: Path) -> None:
    for task, alpha in (("rte", 0.123456789), ("sst2", 1234567.0)):
        config = {"method": {"name": "mine", "alpha": alpha, "lr": 3, "beta": 0.1}}
        write_run(tmp_path, "mine", 1, 0.8, task, config=config)
    grid = run_settings(only_table(tmp_path))
    assert grid.rows[-1][2:] == ["alpha", "1234567.0", "0.123456789"]
    # A method's own setting of this name is no learning rate of the suite's.
    assert grid.notes[-1] == "mine: method.lr 3, beta 0.1"


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
    of_r8, of_dora, of_r16 = grid.notes[2:]
    assert of_r8.startswith("LoRA r8: alpha 16, ")
    assert of_r16.startswith("LoRA r16: alpha 32, ")
    assert of_dora.startswith("DoRA (dynamic rank): ")


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
        table.searched_s = search_seconds(table, seen)
        return costs(table).notes[-1]

    for view in (View(), View(by_length=True)):
        assert note(view) == "training in all: 4 runs, 60 s; the search of settings: 3 runs, 24 s"
    assert costs(only_table(tmp_path)).notes[-1] == "training in all: 4 runs, 60 s"


def test_a_method_that_was_not_searched_at_its_budget_has_the_search_at_another(
    tmp_path: Path,
) -> None:
    write_run(tmp_path, "lora", 1, 0.8, budget="r2")
    write_run(tmp_path, "dora", 1, 0.8, budget="r2")
    search = tmp_path / "search"
    for method, budget in (("lora", "r8"), ("dora", "r8"), ("dora", "r2")):
        write_run(search, method, 1, 0.8, budget=budget)
    write_run(search, "dora", 2, 0.8, budget="r2", train_s=None)  # it says nothing of its time
    table = only_table(tmp_path)
    found = search_seconds(table, [look(folder) for folder in directories(search)])
    # LoRA's at r8, and DoRA's at r2.
    assert found == [10, 10]


def test_a_search_that_cannot_be_read_costs_its_hours_alone(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "runs.jsonl.gz").write_bytes(b"garbage")
    done = command("dora.tables", "--results", str(tmp_path))
    assert done.returncode == 0
    assert "the hours of the search are left out: " in done.stderr
    assert "- training in all: 1 run, 10 s\n" in done.stdout
