"""Choosing runs: names of tasks and methods or their titles, settings with numbers as numbers.

A mistake is told what there is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dora.analysis.choice import chosen, named
from dora.analysis.grouping import tables
from dora.analysis.table import Table
from dora.analysis.tables.scores import medians, scores
from dora.analysis.view import View
from dora.errors import UserError
from dora.records.finished import read_runs
from dora.records.schema import Run
from dora.tables import main
from record_files import write_run
from runs import change_record, in_process


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Writes a study of three tasks and three methods with two seeds."""
    for i, method in enumerate(("lora", "adalora", "dora")):
        for j, task in enumerate(("mrpc", "rte", "sst2")):
            for seed in (1, 2):
                score = 0.6 + 0.1 * j + 0.01 * i + 0.02 * seed
                write_run(tmp_path, method, seed, score, task=task, budget="0.3M", params=294_912)
    return tmp_path


def said(results: Path, *words: str) -> tuple[int, str, str]:
    """Runs `python -m dora.tables` in this process; returns (exit code, stdout, stderr)."""
    return in_process(main, "dora.tables", "--results", str(results), *words)


def table_of(results: Path, view: View | None = None) -> Table:
    (found,) = tables(read_runs(results), view)
    return found


def test_only_what_is_named_is_shown_and_the_average_says_what_it_is_over(results: Path) -> None:
    grid = scores(table_of(results, View(tasks=("mrpc", "rte"), methods=("dora", "lora"))))
    assert [row[0] for row in grid.rows] == ["LoRA", "DoRA (dynamic rank)"]
    assert grid.head[3:] == ["MRPC acc", "RTE acc", "average of 2 [95 %]"]
    # By hand: 63 and 73 of LoRA, its two seeds 2 apart on each.
    assert grid.rows[0][5].startswith("68.0 [")
    assert "average: over MRPC, RTE; not over SST-2, of which there are runs, too" in grid.notes
    whole = scores(table_of(results))
    assert whole.head[6] == "average [95 %]"
    assert "average: over SST-2, MRPC, RTE" in whole.notes


def test_an_average_of_all_tasks_keeps_its_name_under_a_choice_of_methods(results: Path) -> None:
    grid = scores(table_of(results, View(methods=("lora",))))
    assert grid.head[6] == "average [95 %]"


def test_two_methods_of_one_title_are_told_apart_by_their_names(results: Path) -> None:
    method = {"title": "LoRA", "paper": None, "budget": "exact", "result": "adapter"}
    for seed in (1, 2):
        folder = write_run(results, "lora_wide", seed, 0.7, "rte", "0.3M")
        change_record(folder, method=method)
    table = table_of(results, View(tasks=("rte",)))
    titles = [row[0] for row in scores(table).rows]
    assert titles == ["LoRA (lora)", "AdaLoRA", "DoRA (dynamic rank)", "LoRA (lora_wide)"]
    assert table.baseline == "LoRA (lora)"
    runs = read_runs(results)
    assert named([], ["lora"], runs)[1] == ("lora",)
    assert named([], ["LORA_wide"], runs)[1] == ("lora_wide",)
    assert [row[0] for row in scores(table_of(results, View(methods=("lora",)))).rows] == ["LoRA"]


def test_a_choice_has_files_and_a_caption_of_its_own(results: Path) -> None:
    table = table_of(results, View(tasks=("rte",), methods=("dora", "lora")))
    assert table.name == "dir-minilm-best-tasks=rte-methods=dora+lora"
    assert scores(table).caption.endswith(", tasks=rte, methods=dora+lora")


def test_names_and_titles_in_any_case_are_one_choice(results: Path) -> None:
    words = ["--tasks", "RTE, sst-2", "--methods", "DoRA (dynamic rank),lora", "LORA"]
    code, out, err = said(results, *words)
    assert (code, err) == (0, "")
    name = "dir-minilm-best-tasks=sst2+rte-methods=dora+lora"
    assert (results / "tables" / f"{name}.md").exists()
    assert "MRPC" not in out.replace("not over MRPC", "")
    assert "AdaLoRA" not in out


def test_a_baseline_that_is_named_is_shown_beside_the_methods_that_are(results: Path) -> None:
    code, out, err = said(results, "--methods", "lora", "dora", "--baseline", "adalora")
    assert (code, err) == (0, "")
    assert "differences from AdaLoRA" in out
    name = "dir-minilm-best-from-adalora-methods=adalora+dora+lora"
    assert (results / "tables" / f"{name}-differences.csv").exists()
    # Without that word only the methods that are named are shown.
    _, out, _ = said(results, "--methods", "adalora", "dora")
    assert "| LoRA" not in out


def test_an_unknown_name_is_a_message_that_lists_what_there_is(results: Path) -> None:
    code, _, err = said(results, "--tasks", "rte,sts", "--methods", "rola")
    assert code == 2
    assert "--tasks sts: no finished run has it; there are sst2, mrpc, rte" in err
    # Both mistakes are named at once.
    assert "--methods rola: no finished run has it; there are adalora, dora, lora" in err
    # Each name is known, and no run has both.
    write_run(results, "bitfit", 1, 0.8, budget="none", task="cola")
    assert said(results, "--tasks", "rte", "--methods", "bitfit") == (
        2,
        "",
        "no finished run has tasks=rte and methods=bitfit at once\n",
    )


def test_commands_of_holes_are_those_of_the_choice(results: Path) -> None:
    write_run(results, "lora", 3, 0.8, task="rte", budget="0.3M", params=294_912)
    _, out, _ = said(results, "--tasks", "rte", "--methods", "lora,dora")
    assert "### missing runs: 1" in out
    assert "method=dora budget=300000 model=minilm task=rte seed=3" in out


def test_transposed_tables_hold_the_same_cells_with_tasks_down(results: Path) -> None:
    grid, turned = scores(table_of(results)), scores(table_of(results, View(transposed=True)))
    names = [" ".join(row[:2]) for row in grid.rows]
    assert turned.head == ["task", *names]
    assert [row[0] for row in turned.rows] == grid.head[2:]
    for i, row in enumerate(grid.rows):
        assert [line[i + 1] for line in turned.rows] == row[2:]
    assert {(i, j) for j, i in turned.bold} == {(i + 1, j - 2) for i, j in grid.bold}
    assert {(i, j) for j, i in turned.underlined} == {(i + 1, j - 2) for i, j in grid.underlined}
    assert grid.bold
    assert turned.notes == grid.notes
    # The budget is what print sets below the method, and the parameters are no scores.
    assert turned.rules == {1}
    assert turned.units[1] == "0.3M"
    assert medians(table_of(results, View(transposed=True))).head == ["task", *names]
    # Both forms can stand side by side.
    assert table_of(results, View(transposed=True)).name == "dir-minilm-best-transposed"


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Writes LoRA at two rates, DoRA and full fine-tuning, seeds 1 and 2.

    DoRA's second run is of a newer arithmetic.
    """
    common: dict[str, Any] = {
        "task": "sst2",
        "target": ["q", "v"],
        "budget": "300000",
        "limit_train": None,
    }
    for seed in (1, 2):
        for lr in (0.001, 0.002):
            config = {**common, "seed": seed, "lr": lr, "method": {"name": "lora", "alpha": 16.0}}
            write_run(tmp_path, "lora", seed, 0.8, budget="0.3M", key=f"{lr}", config=config)
        config = {**common, "seed": seed, "lr": 0.002, "method": {"name": "dora", "alpha": 8.0}}
        write_run(tmp_path, "dora", seed, 0.8, budget="0.3M", config=config, arithmetic=seed)
        config = {
            **common,
            "seed": seed,
            "lr": 1e-5,
            "method": {"name": "full"},
            "target": None,
            "budget": None,
        }
        write_run(tmp_path, "full", seed, 0.8, budget="none", config=config)
    return read_runs(tmp_path)


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ([], 8),
        (["lr=2e-3"], 4),
        # One number in other spellings.
        (["lr=0.0020"], 4),
        (["lr=1e-5"], 2),
        (["seed=1"], 4),
        (["seed=1.0", "lr=.002"], 2),
        (["method.alpha=16"], 4),
        (["method=dora"], 2),
        (["method.name=dora"], 2),
        (["budget=0.3M"], 6),
        # As budgets, not as text; full fine-tuning has none.
        (["budget=300k"], 6),
        (["budget=null"], 2),
        (["target=q+v"], 6),
        (["target=[q,v]"], 6),
        (["target=null"], 2),
        # A key given twice: either value. Two keys: both.
        (["lr=1e-3", "lr=2e-3"], 6),
        (["lr=1e-3", "lr=2e-3", "seed=2"], 3),
        (["limit_train=null"], 8),
        (["arithmetic=2"], 1),
        # Of some runs alone; all others stay.
        (["dora:arithmetic=2"], 7),
        (["sst2:lora:lr=1e-3"], 6),
        (["lora:0.3M:lr=1e-3"], 6),
        (["lora:lr=1e-3", "lora:lr=2e-3"], 8),
        (["lora:lr=1e-3", "dora:arithmetic=2", "full:seed=1"], 4),
        (["lora:lr=1e-3", "seed=1"], 3),
        (["lora:method=lora"], 8),
    ],
)
def test_runs_with_these_settings_are_chosen(
    words: list[str], number: int, runs: list[Run]
) -> None:
    assert len(chosen(runs, words)) == number


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lr"], "--where lr must be KEY=VALUE, as lr=2e-3"),
        (
            ["rate=1e-3"],
            "no finished run has a setting rate; there are arithmetic, batch_size, budget, data,",
        ),
        (["lr=3e-3"], "--where lr=3e-3: no finished run has it; there lr is 1e-05, 0.001, 0.002"),
        (["method.alpha=large"], "there method.alpha is 8, 16"),
        (["target=q"], "there target is null, q+v"),
        (["dora:lr=1e-3"], "--where dora:lr=1e-3: no finished run has it; there lr is 0.002"),
        (["full:method.alpha=8"], "no finished run has a setting method.alpha; there are"),
        (
            ["rte:dora:lr=1e-3"],
            "no finished run is of rte:dora; there are 300000, dir, dora, full, lora, minilm, "
            "none, sst2",
        ),
        (["dora:lr"], "--where dora:lr must be KEY=VALUE"),
        # All other runs are left, but none of LoRA.
        (["lora:lr=1e-3", "lora:arithmetic=2"], "has it; there arithmetic is 1"),
        (["lora:lr=1e-3", "lr=1e-5"], "no finished run has lora:lr=1e-3 and lr=1e-5 at once"),
        # Each alone is there, so that no value is to blame.
        (["method=full", "lr=1e-3"], "no finished run has method=full and lr=1e-3 at once"),
    ],
)
def test_a_mistake_is_told_what_there_is(words: list[str], message: str, runs: list[Run]) -> None:
    with pytest.raises(UserError) as e:
        chosen(runs, words)
    assert message in str(e.value)


def test_every_mistake_is_told_at_once(runs: list[Run]) -> None:
    with pytest.raises(UserError) as e:
        chosen(runs, ["rate=1", "lr=9", "seed"])
    assert len(e.value.problems) == 3


@pytest.mark.parametrize(
    ("words", "suffix"),
    [
        ((), ""),
        (("lr=2e-3",), "-lr=0.002"),
        (("lr=0.002",), "-lr=0.002"),
        (("seed=1", "lr=2e-3"), "-lr=0.002-seed=1"),
        (("rte:dora:lr=2e-3",), "-rte_dora_lr=0.002"),
        # Only characters that any file system takes.
        (("target=[q,v]",), "-target=_q_v_"),
        (("init_from=/a/b c",), "-init_from=_a_b_c"),
    ],
)
def test_a_choice_has_one_name_that_a_file_can_have(words: tuple[str, ...], suffix: str) -> None:
    assert View(where=words).suffix == suffix
