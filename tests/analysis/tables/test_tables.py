"""The tables' texts: golden files in three formats, marks, holes, notes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dora.analysis.grouping import tables
from dora.analysis.page.study_data import about, ordered
from dora.analysis.studies import study_of
from dora.analysis.table import Table
from dora.analysis.tables import progress
from dora.analysis.tables.contents import grids
from dora.analysis.tables.costs import costs
from dora.analysis.tables.differences import against, p_value
from dora.analysis.tables.files import files, stale
from dora.analysis.tables.layout import Grid, as_csv
from dora.analysis.tables.scores import medians, scores
from dora.analysis.view import View
from dora.records import gaps
from dora.records.finished import read_runs
from dora.records.place import Row
from record_files import federation_entry, write_run
from runs import change_record

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"


def only_table(results: Path, view: View | None = None) -> Table:
    (found,) = tables(read_runs(results), view)
    return found


def fields(grid: Grid, *first: str) -> list[str]:
    """Returns the cells of the one line that begins with `first`."""
    (row,) = [r for r in [grid.head, *grid.rows] if r[: len(first)] == list(first)]
    return row


def study(results: Path) -> None:
    """Writes a small study with everything in it that a table can show.

    It has a hole, WNLI, full fine-tuning, two budgets, marks and predictions. Folders are named as
    runs name them: budgets as numbers of parameters, a configuration's key for each cell.
    """
    labels = np.arange(60) % 2
    chosen = np.random.default_rng(5)
    for budget, params in (("0.3M", 294_912), ("331776", 331_776)):
        for seed, (i, method) in product((1, 2, 3), enumerate(("lora", "adalora", "dora"))):
            # Another share of wrong rows for each method and seed.
            changed = (np.arange(60) % (9 + i + seed)) == 0
            predicted = np.where(changed, 1 - labels, labels)
            score = float((predicted == labels).mean())
            # Dynamic methods end below the budget by less than a component.
            stored = params - 768 * i
            if budget == "0.3M":
                rows = {"labels": labels, "predicted": predicted}
                write(results, method, seed, score, "sst2", budget, stored, **rows)
            else:
                score = 0.9 + 0.02 * (method == "lora") + 0.002 * chosen.normal()
                write(results, method, seed, score, "sst2", budget, stored)
            # The hole of the study; a run that predicts one class; runs of changed sources.
            if (method, seed, budget) != ("dora", 3, "0.3M"):
                one_class = "all 0" if (method, seed) == ("adalora", 1) else None
                result = {"step": 5, "accuracy": 0.6 + (seed + i) / 50, "f1": 0.8}
                result["degenerate"] = one_class
                made = {
                    "results": {"best": result, "last": result},
                    "git": {"commit": "1" * 40, "dirty": method == "dora"},
                }
                write(results, method, seed, None, "mrpc", budget, stored, **made)
    for seed in (1, 2, 3):
        write(results, "full", seed, 0.9 + seed / 100, "sst2", "none", 124_645_632)
        write(results, "full", seed, 0.7, "wnli", "none", 124_645_632)


def write(
    into: Path,
    method: str,
    seed: int,
    score: float | None,
    task: str,
    budget: str,
    params: int,
    **changes: Any,
) -> None:
    """Writes a run of RoBERTa-base, under a key of its configuration, which the seed is no part of."""
    key = hashlib.sha256(f"{task} {method} {budget}".encode()).hexdigest()[:8]
    write_run(
        into,
        method,
        seed,
        score,
        task=task,
        budget=budget,
        key=key,
        model="roberta_base",
        params=params,
        **changes,
    )


def golden(results: Path) -> dict[str, str]:
    """Returns the texts that the golden files hold, by their names."""
    missing = ["python -m dora.run task=mrpc seed=3"]
    made = files(only_table(results), Path("results"), missing)
    turned = files(only_table(results, View(transposed=True)), Path("results"), missing)
    ends = (".md", ".tex", ".csv", "-differences.csv")
    names = [f"dir-roberta_base-best{end}" for end in ends]
    return {name: made[name] for name in names} | {
        name: turned[name] for name in (f"dir-roberta_base-best-transposed{e}" for e in ends[:2])
    }


def test_the_tables_bytes_equal_the_golden_files(tmp_path: Path) -> None:
    """Compares with files made by `python tests/analysis/tables/test_tables.py` and then read.

    The other tests work out by hand what the numbers have to be.
    """
    study(tmp_path)
    made = golden(tmp_path)
    assert set(made) == {path.name for path in GOLDEN.iterdir()}
    for name, text in made.items():
        assert text == (GOLDEN / name).read_text(), name


def test_the_folders_of_the_golden_study_are_named_as_runs_name_them(tmp_path: Path) -> None:
    study(tmp_path)
    names = {path.name for path in tmp_path.glob("runs/dir/*/roberta_base/*/*")}
    # `budget=0.3M` is a folder 300000, and prints as it was typed.
    assert names == {"none", "300000", "331776"}
    assert {row[1] for row in scores(only_table(tmp_path)).rows} >= {"–", "0.3M", "0.332M"}
    keys = {path.name for path in tmp_path.glob("runs/*/*/*/*/*/*")}
    assert len(keys) == 2 + 2 * 2 * 3  # a key for each cell


def test_a_cell_holds_mean_and_standard_deviation_of_its_seeds(tmp_path: Path) -> None:
    for seed, accuracy, seconds, mib in ((1, 0.80, 10, 7), (2, 0.82, 20, 300), (3, 0.87, 60, 8)):
        cost = {"train_s": float(seconds), "peak_memory_bytes": 2**20 * mib}
        write_run(tmp_path, "lora", seed, accuracy, **cost)
    table = only_table(tmp_path)
    # By hand: deviations -3, -1, 4; sqrt(26 / 2).
    assert fields(scores(table), "LoRA") == ["LoRA", "r8", "900", "83.0 ± 3.6"]
    assert fields(medians(table), "LoRA") == ["LoRA", "r8", "82.0 (3)"]
    # The mean of the times, and the most memory that any run took.
    assert fields(costs(table), "LoRA") == ["LoRA", "r8", "3", "900", "100", "30", "300"]


def test_the_number_of_seeds_is_that_of_a_cell_and_not_of_all_cells_together(
    tmp_path: Path,
) -> None:
    def note(name: str, lora: tuple[int, ...], dora: tuple[int, ...]) -> str:
        for method, seeds in (("lora", lora), ("dora", dora)):
            for seed in seeds:
                write_run(tmp_path / name, method, seed, 0.8 + seed / 100)
        notes = scores(only_table(tmp_path / name)).notes
        (found,) = [n for n in notes if "deviation" in n or "spread is known" in n]
        return found

    assert note("one", (1,), (1,)) == "one seed: no spread is known"
    assert note("unlike", (1,), (2,)).startswith("one seed a cell: no spread is known")
    assert note("hole", (1, 2, 3), (1, 2)) == "mean ± standard deviation over 3 seeds"
    said = "mean ± standard deviation over at most 2 of 4 seeds"
    assert note("apart", (1, 2), (3, 4)).startswith(said)


def test_rows_of_unequal_size_at_one_budget_and_weights_of_a_folder_are_said(
    tmp_path: Path,
) -> None:
    for method, params in (("lora", 900), ("sora", 892), ("adalora", 790)):
        path = write_run(tmp_path, method, 1, 0.8, params=params)
        model = json.loads((path / "run.json").read_text())["model"]
        change_record(path, model={**model, "path": "/mnt/copies/my weights"})
    notes = scores(only_table(tmp_path)).notes
    assert (
        "fewer parameters than others at the budget: AdaLoRA (790 of 900), since a budget such as r8 is "
        "an average rank and no size" in notes
    )
    said = "weights from the folder my weights (model.path), fingerprint eeeeeeee"
    assert notes[0] == said


def test_a_row_is_called_smaller_where_a_run_lacks_more_than_a_hundredth(tmp_path: Path) -> None:
    # 9,900 is the limit; the budget is a size, and needs no word on ranks.
    sizes = {"lora": (10_000, 10_000), "dora": (9_901, 10_000), "adalora": (10_000, 9_899)}
    for method, by_seed in sizes.items():
        for seed, params in enumerate(by_seed, 1):
            write_run(tmp_path, method, seed, 0.8, budget="10k", params=params)
    notes = [note for note in scores(only_table(tmp_path)).notes if note.startswith("fewer")]
    assert notes == ["fewer parameters than others at the budget: AdaLoRA (9.9k to 10k of 10k)"]


def test_runs_that_diverged_are_named_with_a_budget_where_there_is_one(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    table = only_table(tmp_path)
    table.diverged = {
        (Row("full", "none"), "sst2"): [2],
        (Row("lora", "r8"), "sst2"): [3, 2],
        (Row("lora", "r8"), "rte"): [1],
    }
    assert (
        "diverged runs, left out of every number: full fine-tuning on SST-2 (seed 2); "
        "LoRA r8 on SST-2 (seeds 2, 3); LoRA r8 on RTE (seed 1)" in scores(table).notes
    )


def test_lengths_that_differ_between_tasks_are_said_task_by_task(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, "lora", 1, 0.8, task="rte", total_steps=1_800)
    rest = "steps of 16 examples of at most 128 tokens"
    said = f"each run: SST-2 90 {rest}; RTE 1,800 {rest}"
    assert said in scores(only_table(tmp_path)).notes


def test_another_metric_is_read_from_the_evaluation_that_the_first_one_chose(
    tmp_path: Path,
) -> None:
    write_run(tmp_path, "lora", 1, 0.8, task="mrpc", metrics={"f1": 0.9})
    said = "the best evaluation is still that by MRPC accuracy"
    assert said in scores(only_table(tmp_path, View(metrics={"mrpc": "f1"}))).notes
    assert said not in scores(only_table(tmp_path)).notes
    # The last evaluation was chosen by none.
    assert said not in scores(only_table(tmp_path, View("last", metrics={"mrpc": "f1"}))).notes


def test_rows_that_are_not_glues_are_said_in_title_and_notes(tmp_path: Path) -> None:
    def study(name: str, task: str, train: int, whole: int, dev: int, **more: int) -> Grid:
        rows = {"train": whole, "dev": dev, **more}
        about = {"revision": None, "rows": rows, "train": train}
        change_record(write_run(tmp_path / name, "lora", 1, 0.8, task=task), data=about)
        return scores(only_table(tmp_path / name))

    def noted(grid: Grid) -> list[str]:
        return [note for note in grid.notes if "whole rows" in note]

    own = study("own", "qqp", 363_849, 363_849, 40_430)  # the official files' few rows more
    assert "GLUE (official files)" in own.caption
    assert noted(own) == []
    limited = study("limited", "cola", 64, 8_551, 1_043)
    assert "GLUE (official files)" in limited.caption
    assert noted(limited) == ["not GLUE's whole rows: CoLA trained on 64 rows (GLUE has 8,551)"]
    sample = study("sample", "qnli", 9_000, 9_000, 200)
    assert "rows in GLUE's format (dir)" in sample.caption
    assert noted(sample) == [
        "not GLUE's whole rows: QNLI trained on 9,000 rows (GLUE has 104,743), "
        "scored on 200 rows (GLUE has 5,463)"
    ]
    # No score rests on the test rows.
    cut = study("cut", "mnli", 392_702, 392_702, 9_815, dev_mm=300, test=10)
    assert "rows in GLUE's format (dir)" in cut.caption
    whole = "not GLUE's whole rows: MNLI scored on 300 rows of dev_mm (GLUE has 9,832)"
    assert noted(cut) == [whole]


def test_what_a_cells_runs_were_trained_on_before_is_said(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8, task="rte")
    write_run(tmp_path, "dora", 1, 0.8, task="rte")
    assert not [note for note in scores(only_table(tmp_path)).notes if "before" in note]
    start = str(tmp_path / "runs/dir/mnli/minilm/lora/r8/0000/s1")
    for task in ("cola", "qnli"):
        write_run(tmp_path, "lora", 1, 0.8, task=task, init_from=start)
    read = [{"folder": "x", "task": task, "method": "lora"} for task in ("sst2", "mnli")]
    write_run(tmp_path, "cora", 1, 0.8, task="rte", sources=read)
    notes = scores(only_table(tmp_path)).notes
    assert [note for note in notes if "before" in note] == [
        "trained before: LoRA on CoLA, QNLI began at runs on MNLI; "
        "cora on RTE read runs on MNLI, SST-2"
    ]


def test_runs_that_patience_ended_are_not_said_to_have_trained_to_the_end(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    assert (
        "each run: 90 steps of 16 examples of at most 128 tokens"
        in scores(only_table(tmp_path)).notes
    )
    ended = {key: {"step": 9, "accuracy": 0.8, "degenerate": None} for key in ("best", "last")}
    write_run(tmp_path, "dora", 1, 0.8, config={"patience": 3}, results=ended)
    write_run(tmp_path, "adalora", 1, 0.8, config={"patience": 3})  # to its last step
    assert (
        "each run: 90 steps of 16 examples of at most 128 tokens; patience ended 1 of 3 runs after 9 steps"
        in scores(only_table(tmp_path)).notes
    )


def test_batches_beside_federated_runs_are_said_to_be_the_largest(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, "fedit", 1, 0.8, federation=federation_entry())
    assert (
        "each run: 90 steps of at most 16 examples of at most 128 tokens"
        in scores(only_table(tmp_path)).notes
    )


def test_the_average_has_its_interval_and_leaves_wnli_out(tmp_path: Path) -> None:
    for seed, sst2, rte in ((1, 0.80, 0.60), (2, 0.82, 0.60), (3, 0.84, 0.60)):
        write_run(tmp_path, "lora", seed, sst2)
        write_run(tmp_path, "lora", seed, rte, task="rte")
        write_run(tmp_path, "lora", seed, 0.5, task="wnli")
    grid = scores(only_table(tmp_path))
    assert grid.head[3:] == ["SST-2 acc", "RTE acc", "average [95 %]", "WNLI acc"]
    # By hand: sd 2, error 2 / sqrt(3) / 2 tasks, 2 degrees of freedom, t = 4.303: 71 ± 2.484.
    assert fields(grid, "LoRA")[3:] == [
        "82.0 ± 2.0",
        "60.0 ± 0.0",
        "71.0 [68.5, 73.5]",
        "50.0 ± 0.0",
    ]
    # Three equal scores on RTE say nothing of its error, and WNLI is in no average.
    said = "same score, whose error then counts as 0: LoRA r8 on RTE"
    assert [note.endswith(said) for note in grid.notes if note.startswith("average: the")] == [True]
    for seed in (1, 2):
        write_run(tmp_path / "b", "lora", seed, 0.8 + seed / 100)
        write_run(tmp_path / "b", "lora", seed, 0.6 + seed / 100, task="rte")
    # One seed has no interval, and another note says so.
    write_run(tmp_path / "b", "dora", 1, 0.8)
    write_run(tmp_path / "b", "dora", 1, 0.8, task="rte")
    assert not any("same score" in note for note in scores(only_table(tmp_path / "b")).notes)


def test_what_is_missing_is_a_hole(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, "lora", 3, None)
    write_run(tmp_path, "dora", 1, None)
    write_run(tmp_path, "dora", 1, 0.5, task="rte")
    grid = scores(only_table(tmp_path))
    # Seeds 1 and 3 occur. An undefined score is no value, and no average is over other tasks.
    assert fields(grid, "LoRA")[3:] == ["80.0 (n = 1/2)", "–", "–"]
    assert fields(grid, "DoRA (dynamic rank)")[3:] == ["–", "50.0 (n = 1/2)", "–"]


def test_degenerate_and_dirty_runs_are_marked_and_explained(tmp_path: Path) -> None:
    best = {"step": 5, "degenerate": "one class", "accuracy": 0.5}
    write_run(
        tmp_path,
        "LoRA",
        1,
        0.5,
        results={"best": best, "last": best},
        git={"commit": "1" * 40, "dirty": True},
        embedded="tiny",
    )
    # One such run marks its cell.
    write_run(tmp_path, "LoRA", 2, 0.5, embedded="tiny")
    grid = scores(only_table(tmp_path))
    assert fields(grid, "LoRA")[3] == "50.0 ± 0.0*§"
    assert "tiny" in grid.notes
    # Only the marks that occur are explained.
    assert [note[0] for note in grid.notes[-2:]] == ["*", "§"]
    # A run that has recovered has no mark at its last evaluation.
    later = {"step": 90, "degenerate": None, "accuracy": 0.7}
    write_run(tmp_path / "b", "lora", 1, 0.7, results={"best": best, "last": later})
    shown = [
        scores(only_table(tmp_path / "b", View(score))).rows[0][3] for score in ("best", "last")
    ]
    assert shown == ["50.0*", "70.0"]
    for score, counted in (("best", "1"), ("last", "0")):
        table = only_table(tmp_path / "b", View(score))
        (line,) = csv.DictReader(files(table, tmp_path, [])[f"{table.name}.csv"].splitlines())
        assert line["degenerate"] == counted


def test_seconds_over_no_task_that_all_rows_share_are_a_dash(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, "dora", 1, 0.8, task="rte")
    grid = costs(only_table(tmp_path))
    assert [row[5] for row in grid.rows] == ["–", "–"]
    assert grid.notes[1] == "seconds: over no task, which every row has runs of"


def test_a_rule_of_a_transposed_table_parts_sizes_from_scores(tmp_path: Path) -> None:
    for seed, method in product((1, 2), ("lora", "dora")):
        write_run(tmp_path, method, seed, 0.8)
    table = only_table(tmp_path, View(transposed=True))
    # The medians have no row of sizes above the scores.
    assert [(grid.rows[0][0], grid.rules) for grid in (scores(table), medians(table))] == [
        ("adapter parameters", {1}),
        ("SST-2 acc", set()),
    ]


def test_differences_show_what_the_seeds_could_have_shown(tmp_path: Path) -> None:
    for seed, lora, dora in ((1, 0.80, 0.81), (2, 0.60, 0.62), (3, 0.70, 0.73)):
        write_run(tmp_path, "lora", seed, lora)
        write_run(tmp_path, "dora", seed, dora)
    (grid,) = against(only_table(tmp_path))
    # By hand: differences 1, 2, 3; error 1 / sqrt(3); t(0.975, 2) = 4.303; t = 3.46, p = 0.074; the
    # non-central t of 2 degrees of freedom passes 4.303 in four of five draws with 5.653, by its
    # tables; DoRA's run is the higher in 6 of 9 pairs.
    assert fields(grid, "DoRA (dynamic rank)") == [
        "DoRA (dynamic rank)",
        "r8",
        "SST-2 acc",
        "+2.0 [-0.5, +4.5]",
        "0.074",
        "0.67",
        "3.3",
        "3",
    ]


def test_a_small_p_value_is_never_printed_as_0() -> None:
    shown = [p_value(p) for p in (1e-9, 0.00099, 0.0014, 0.5, math.nan)]
    assert shown == ["<0.001", "<0.001", "0.001", "0.500", "–"]


def test_differences_that_are_alike_on_every_seed_are_not_tested(tmp_path: Path) -> None:
    # As on WNLI, where every run predicts one class: no spread, and so no error.
    for seed in (1, 2):
        for method, wnli in (("lora", 0.563), ("adalora", 0.563), ("dora", 0.436)):
            write_run(tmp_path, method, seed, wnli, task="wnli")
    table = only_table(tmp_path)
    (grid,) = against(table)
    assert fields(grid, "AdaLoRA")[3:] == ["+0.0", "1.000", "0.50", "–", "2"]
    assert fields(grid, "DoRA (dynamic rank)")[3:] == ["-12.7", "–", "0.00", "–", "2"]
    assert grid.bold == set()
    assert "p (Holm) is corrected for the 2 comparisons" in grid.notes[0]
    assert grid.notes[1].startswith("no interval: every seed gives the same difference")
    # An empty cell: a spreadsheet reads nan as a text.
    assert "nan" not in files(table, tmp_path, [])["dir-minilm-best-differences.csv"]


def test_no_table_repeats_another(tmp_path: Path) -> None:
    def captions() -> list[str]:
        return [grid.caption.partition(": ")[2] for grid in grids(only_table(tmp_path))]

    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, "dora", 1, 0.8)
    assert captions() == ["", "parameters, time, memory", "settings"]
    # Two seeds have medians and differences; two tasks an average.
    write_run(tmp_path, "lora", 2, 0.8)
    write_run(tmp_path, "dora", 2, 0.8)
    assert captions() == [
        "",
        "differences from LoRA by task",
        "median (n)",
        "parameters, time, memory",
        "settings",
    ]
    for method in ("lora", "dora"):
        for seed in (1, 2):
            write_run(tmp_path, method, seed, 0.8, task="rte")
    assert captions()[1:3] == ["differences from LoRA", "differences from LoRA by task"]


def test_best_of_unequal_numbers_of_evaluations_is_said(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, "dora", 1, 0.8, evaluations={"counted": 9, "from_step": 46})
    assert any("--score last" in note for note in scores(only_table(tmp_path)).notes)
    assert not any(
        "--score last" in note for note in scores(only_table(tmp_path, View("last"))).notes
    )


@pytest.mark.parametrize(
    ("selects", "said"),
    [
        (("dev", "dev"), "the best of 3 development evaluations in"),
        (("heldout", "heldout"), "the best of 3 evaluations on held-out training rows in"),
        (("dev", "heldout"), "the best of 3 evaluations on the development set or on held-out"),
    ],
)
def test_what_the_best_step_was_chosen_on_is_said(
    selects: tuple[str, str], said: str, tmp_path: Path
) -> None:
    for method, select in zip(("lora", "dora"), selects, strict=True):
        write_run(tmp_path, method, 1, 0.8, config={"select": select})
    assert any(note.startswith(said) for note in scores(only_table(tmp_path)).notes)


def test_the_csv_holds_every_seed_in_full(tmp_path: Path) -> None:
    study(tmp_path)
    text = files(only_table(tmp_path), tmp_path, [])["dir-roberta_base-best.csv"]
    lines = csv.DictReader(text.splitlines())
    found = {(x["method"], x["task"]): x for x in lines if x["budget"] != "331776"}
    line = found["dora", "mrpc"]
    assert (line["values"], line["missing_seeds"], line["n"], line["dirty"]) == (
        "1:66.0000 2:68.0000",
        "3",
        "2",
        "2",
    )
    # By hand: 66 and 68.
    assert (line["mean"], line["std"]) == ("67.000000", "1.414214")
    assert found["lora", "average"]["low"] < found["lora", "average"]["mean"]


def test_of_many_holes_the_rest_is_a_command_for_this_folder(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    text = files(only_table(tmp_path), tmp_path, ["x"] * 25)["dir-minilm-best.md"]
    assert f"# and 5 more: python -m dora.status --results {tmp_path} --missing\n" in text


def test_budgets_are_printed_alike_in_tables_page_and_status(tmp_path: Path) -> None:
    for method in ("lora", "dora"):
        for seed in (1, 2):
            write_run(tmp_path, method, seed, 0.8 + seed / 100, budget="0.3M", params=299_520)
    table = only_table(tmp_path)
    assert all(row[1] == "0.3M" for grid in grids(table) for row in grid.rows)
    assert {about(table, run)["budgetTitle"] for run in table.runs} == {"0.3M"}
    shown = progress.table(gaps.scan(tmp_path))
    assert [line.split()[4] for line in shown.splitlines()] == ["budget", "0.3M", "0.3M"]


def test_methods_that_nobody_has_heard_of_have_rows_like_any_other(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path, "full", seed, 0.9, budget="none")
        bias = write_run(tmp_path, "bias", seed, 0.7, budget="none", config={"target": None})
        said = {"title": "Bias", "paper": None, "budget": "none", "result": "weights"}
        change_record(bias, method=said)
        for method, score in (("zeta", 0.84), ("lora", 0.8)):
            write_run(tmp_path, method, seed, score + seed / 100)
    table = only_table(tmp_path)
    # Without a budget first and by name, then the budget with LoRA first.
    assert [row[:3] for row in scores(table).rows] == [
        ["Bias", "–", "900"],
        ["full fine-tuning", "–", "all 900"],
        ["LoRA", "r8", "900"],
        ["zeta", "r8", "900"],
    ]
    assert scores(table).rules == {2}
    (grid,) = against(table)
    assert [row[0] for row in grid.rows] == ["zeta"]  # nothing of equal size is beside the others
    # "target" is a setting of zeta and LoRA alone, so that it does not differ.
    assert not any("differs" in note for note in scores(table).notes)
    made = files(table, tmp_path, [])
    assert "dir,minilm,best,bias,none,900,900,100,sst2,accuracy,2," in made["dir-minilm-best.csv"]
    # Full fine-tuning has no adapter; the CSV counts what it trains, as `all 900` does.
    assert "dir,minilm,best,full,none,900,900,100,sst2,accuracy,2," in made["dir-minilm-best.csv"]
    shown = [about(table, run) for _, run in ordered([table])][::2]
    assert [(run["methodTitle"], run["budgetTitle"]) for run in shown] == [
        ("Bias", "–"),
        ("full fine-tuning", "–"),
        ("LoRA", "r8"),
        ("zeta", "r8"),
    ]


def test_every_table_is_a_latex_file_with_one_float_and_a_label_of_its_own(tmp_path: Path) -> None:
    study(tmp_path)
    made = {
        k: v for k, v in files(only_table(tmp_path), tmp_path, []).items() if k.endswith(".tex")
    }
    assert [name.removeprefix("dir-roberta_base-best") for name in made] == [
        ".tex",
        "-differences.tex",
        "-differences-by-task.tex",
        "-medians.tex",
        "-costs.tex",
        "-settings.tex",
    ]
    for name, text in made.items():
        assert len(re.findall(r"\\begin\{table\*?\}", text)) == 1
        assert text.count(r"\caption{") == 1
        label = f"tab:{study_of(tmp_path)}-{name.removesuffix('.tex')}"
        assert text.count(rf"\label{{{label}}}") == 1


@pytest.mark.parametrize("committed", ["study_tiny", "study_family", "study_federated"])
def test_every_latex_file_that_is_made_is_found_when_it_is_stale(
    committed: str, tmp_path: Path
) -> None:
    # These have tables of what chains train and of what clients send, too.
    (table,) = tables(read_runs(ROOT / "results" / committed))
    made = {k: v for k, v in files(table, tmp_path, []).items() if k.endswith(".tex")}
    for name, text in made.items():
        (tmp_path / name).write_text(text)
    assert {path.name for path in stale(table, tmp_path, tmp_path, ())} == set(made)
    assert stale(table, tmp_path, tmp_path, made) == []
    # Of the same names, they are another study's.
    assert stale(table, tmp_path / "other", tmp_path, ()) == []


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-1", "@x", "\t=x", "a\r=x"])
def test_no_text_of_a_csv_is_a_formula(text: str) -> None:
    (_, row) = csv.reader(io.StringIO(as_csv([{"model": text, "mean": -0.5, "n": -1}])))
    assert row[1:] == ["-0.500000", "-1"]
    # The numbers are as they were; only a text is guarded.
    assert row[0].startswith(("'", "\\", "a"))
    assert row[0].isprintable()


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        study(Path(folder))
        for path in GOLDEN.iterdir():
            path.unlink()
        for name, text in golden(Path(folder)).items():
            (GOLDEN / name).write_text(text)
