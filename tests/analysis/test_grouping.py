"""Cells of finished runs: which score counts, one configuration a cell, what may be compared."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dora.adapters.budget import Budget
from dora.analysis.grouping import tables
from dora.analysis.other_runs import diverged
from dora.analysis.rows import budget_in_words
from dora.analysis.table import Table, first_counted
from dora.analysis.view import View, metrics_of
from dora.data.predictions import degenerate
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.records.finished import read_runs
from dora.records.gaps import scan
from dora.records.place import Row
from record_files import federation_entry, write_run
from runs import change_record


def only_table(results: Path, view: View | None = None) -> Table:
    (found,) = tables(read_runs(results), view)
    return found


def test_rows_are_full_fine_tuning_then_budget_by_budget_with_lora_first(tmp_path: Path) -> None:
    for method, budget in (
        ("dora", "55296"),
        ("lora", "55296"),
        ("dora", "9000"),
        ("lora", "9000"),
        ("full", "none"),
    ):
        write_run(tmp_path, method, 1, 0.8, budget=budget)
    assert only_table(tmp_path).blocks == [
        [("full", "none")],
        [("lora", "9000"), ("dora", "9000")],
        [("lora", "55296"), ("dora", "55296")],
    ]


def test_budgets_stand_by_kind_and_size(tmp_path: Path) -> None:
    # As text, 9k would stand after 0.3M, and r16 before r8.
    for budget in ("0.3M", "9k", "r16", "r8", "none"):
        write_run(tmp_path, "a", 1, 0.8, budget=budget)
    spent = [budget for _, budget in only_table(tmp_path).rows]
    assert spent == ["none", "r8", "r16", "9000", "300000"]


def test_lengths_stand_in_their_order_whatever_their_folders_are_called(tmp_path: Path) -> None:
    for steps, key in ((600, "b0000000"), (5400, "a0000000"), (1800, "c0000000")):
        write_run(tmp_path, "lora", 1, 0.8, key=key, total_steps=steps)
    found = tables(read_runs(tmp_path), View(by_length=True))
    assert [table.steps for table in found] == [600, 1800, 5400]


def test_only_finished_runs_and_defined_scores_count(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, "lora", 2, 0.9, status="failed")
    # A finished run whose score is undefined has a seed, but no value.
    write_run(tmp_path, "lora", 3, None)
    table = only_table(tmp_path)
    assert table.values(("lora", "r8"), "sst2") == {1: 80.0}
    assert table.seeds == {1, 3}


def test_wnli_is_averaged_only_as_glue_does(tmp_path: Path) -> None:
    for task in ("wnli", "cola", "rte"):
        write_run(tmp_path, "lora", 1, 0.5, task=task)
    assert (only_table(tmp_path).averaged, only_table(tmp_path).apart) == (
        ["cola", "rte"],
        ["wnli"],
    )
    glue = only_table(tmp_path, View(glue=True))
    assert (glue.averaged, glue.apart) == (["cola", "rte", "wnli"], [])


@pytest.mark.parametrize(
    ("view", "title", "value"),
    [
        (View(), "MRPC acc", 80.0),
        (View(metrics={"mrpc": "f1"}), "MRPC F1", 86.0),
        (View(metrics={"mrpc": "mean"}), "MRPC mean", 83.0),
        (View(glue=True), "MRPC mean", 83.0),
        (View("last"), "MRPC acc", 70.0),
    ],
)
def test_a_view_says_which_number_counts(
    view: View, title: str, value: float, tmp_path: Path
) -> None:
    # Four numbers that differ, so that each view can be told by its own.
    results = {
        "best": {"step": 5, "accuracy": 0.8, "f1": 0.86, "degenerate": None},
        "last": {"step": 9, "accuracy": 0.7, "f1": 0.7, "degenerate": None},
    }
    write_run(tmp_path, "lora", 1, None, task="mrpc", results=results)
    (run,) = read_runs(tmp_path)
    assert (view.title("mrpc"), view.value(run, "mrpc")) == (title, pytest.approx(value))


def test_a_mean_of_metrics_is_none_of_those_that_are_defined(tmp_path: Path) -> None:
    # No row is of class 1, nor predicted to be: F1 is undefined, and absent.
    write_run(tmp_path, "lora", 1, 0.8, task="mrpc")
    (run,) = read_runs(tmp_path)
    assert View(glue=True).value(run, "mrpc") is None
    assert View().value(run, "mrpc") == pytest.approx(80)


def test_a_run_that_predicts_one_value_counts_as_0_and_does_not_drop_out(tmp_path: Path) -> None:
    collapsed = {
        which: {"step": 9, "degenerate": "all 1500 predictions are 2.7"}
        for which in ("best", "last")
    }
    write_run(tmp_path, "lora", 1, 0.8, task="stsb")
    write_run(tmp_path, "lora", 2, None, task="stsb", results=collapsed)
    for metric in ("pearson", "spearmanr", "mean"):
        table = only_table(tmp_path, View(metrics={"stsb": metric}))
        assert table.values(("lora", "r8"), "stsb")[2] == 0
    (_, run) = read_runs(tmp_path)
    assert View().value(run, "cola") is None  # what else is absent is not known


def test_a_correlation_counts_as_0_for_equal_predictions_and_not_for_logits_that_are_not_finite(
    tmp_path: Path,
) -> None:
    # The reasons are those that an evaluation writes.
    for seed, logit in ((1, 2.5), (2, np.nan)):
        why = degenerate(TASKS["stsb"], np.full((1500, 1), logit), {})
        result = {"step": 9, "degenerate": why}
        write_run(tmp_path, "lora", seed, None, "stsb", results={"best": result, "last": result})
    assert only_table(tmp_path).values(("lora", "r8"), "stsb") == {1: 0}


def test_mnli_has_both_development_sets_and_their_mean() -> None:
    assert metrics_of("mnli") == ("accuracy", "accuracy_mm", "mean")
    assert View(metrics={"mnli": "accuracy_mm"}).title("mnli") == "MNLI-mm acc"
    assert metrics_of("cola") == ("matthews_correlation",)


def test_every_wrong_metric_is_named_at_once() -> None:
    sst3, mrpc = (
        "task 'sst3' must be one of",
        "mrpc's metric 'F1' must be one of accuracy, f1, mean",
    )
    with pytest.raises(UserError, match=f"(?s){sst3}.*{mrpc}"):
        View(metrics={"sst3": "accuracy", "mrpc": "F1"})


def test_two_configurations_for_one_cell_are_an_error_that_shows_the_difference(
    tmp_path: Path,
) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(
        tmp_path,
        "lora",
        2,
        0.9,
        key="ffff0000",
        config={"seed": 2, "lr": 0.002, "method": {"name": "lora"}},
    )
    write_run(tmp_path, "dora", 1, 0.8)
    write_run(tmp_path, "dora", 1, 0.9, key="ffff0000", fingerprints={"data": "other"})
    with pytest.raises(UserError) as e:
        tables(read_runs(tmp_path))
    # LoRA's differ in a rate, DoRA's in their data; seeds differ in every cell and are no conflict.
    assert len(e.value.problems) == 2
    lora = next(text for text in e.value.problems if "/lora/" in text)
    assert "abcd1234" in lora
    assert "ffff0000" in lora
    assert "lr 0.001 | 0.002" in lora
    assert "seed" not in lora


def test_runs_that_only_share_the_name_of_backbone_or_data_are_an_error_that_names_their_folders(
    tmp_path: Path,
) -> None:
    for method, changed in (
        ("lora", {}),
        ("adalora", {"model": "f" * 64}),
        ("dora", {"data": "c" * 64}),
    ):
        for task in ("sst2", "rte"):
            marks = {"data": task * 9, "model": "e" * 64, "init_from": None, **changed}
            write_run(tmp_path, method, 1, 0.8, task=task, fingerprints=marks)
    with pytest.raises(UserError) as e:
        tables(read_runs(tmp_path))
    # One problem for the table's backbone, and one for each task's rows.
    model, sst2, rte = e.value.problems
    runs = tmp_path / "runs" / "dir"
    for task in ("sst2", "rte"):
        assert str(runs / task / "minilm" / "adalora" / "r8" / "abcd1234") in model
    assert "/lora/" not in model
    assert "model.name=" in model
    assert "eeeeeeee in the rest" in model
    for problem, task in ((sst2, "sst2"), (rte, "rte")):
        assert f"cccccccc in {runs / task / 'minilm' / 'dora' / 'r8' / 'abcd1234'}" in problem


def test_best_scores_are_comparable_only_over_evaluations_that_all_share(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, "dora", 1, 0.8, evaluations={"counted": 9, "from_step": 46})
    assert not only_table(tmp_path).comparable
    assert only_table(tmp_path, View("last")).comparable
    write_run(tmp_path / "a", "lora", 1, 0.8)
    write_run(tmp_path / "a", "dora", 1, 0.8, total_steps=180)
    assert not only_table(tmp_path / "a").comparable  # of a longer run
    write_run(tmp_path / "b", "lora", 1, 0.8)
    write_run(
        tmp_path / "b", "lora", 1, 0.8, task="rte", evaluations={"counted": 9, "from_step": 46}
    )
    # Tasks may differ in their evaluations: no comparison is across tasks.
    assert only_table(tmp_path / "b").comparable
    # The best that the development set chose is higher by chance than one that other rows chose.
    for task, select in (("sst2", "heldout"), ("rte", "dev")):
        write_run(tmp_path / "c", "lora", 1, 0.8, task, config={"select": select})
    assert only_table(tmp_path / "c").comparable
    write_run(tmp_path / "c", "dora", 1, 0.8, config={"select": "dev"})
    assert not only_table(tmp_path / "c").comparable
    assert only_table(tmp_path / "c", View("last")).comparable


@pytest.mark.parametrize(
    ("every", "of_lora", "of_dora", "shared"),
    [
        (10, 12, 15, True),  # both count the one of step 20 alone
        (10, 10, 11, False),  # the one of step 10 counts for LoRA
        (5, 15, 16, False),
        (None, 12, 15, False),  # SST-2's 67,349 rows are epochs of 12 steps of 5,613
        (None, 13, 15, True),
        (50, 12, 15, True),  # the last step is always evaluated
    ],
)
def test_evaluations_are_shared_where_the_first_that_counts_is_one_step(
    every: int | None, of_lora: int, of_dora: int, shared: bool, tmp_path: Path
) -> None:
    for method, from_step in (("lora", of_lora), ("dora", of_dora)):
        write_run(
            tmp_path,
            method,
            1,
            0.8,
            total_steps=20,
            config={"eval_every": every, "batch_size": 5613},
            evaluations={"counted": 1, "from_step": from_step},
        )
    assert only_table(tmp_path).comparable == shared


def first(from_step: int, every: int, selected: int, local_steps: int, total: int) -> int:
    """Returns `first_counted` of a federated run."""
    return first_counted(
        {
            "config": {"eval_every": every},
            "total_steps": total,
            "evaluations": {"from_step": from_step},
            "federation": federation_entry(selected=selected, local_steps=local_steps),
        }
    )


def test_the_first_evaluation_that_counts_of_a_federated_run_may_be_due_before_it() -> None:
    # By hand: rounds end at 30, 60, ..., and step 121 is in the round that ends at 150.
    assert first(121, 121, 3, 10, 240) == 121
    assert first(122, 121, 3, 10, 240) == first(150, 121, 3, 10, 240) == 121
    assert first(151, 121, 3, 10, 240) == 240
    # That of step 300 is at a round's end, before 302; that of 400 is at 420.
    assert first(302, 100, 3, 10, 600) == 400
    # A run is evaluated where `Course.crosses` says so, and behind its last step.
    for every, selected, each in product((1, 4, 7, 12, 13, 50), (1, 2), (1, 3, 5)):
        unit = selected * each
        ends = range(unit, 12 * unit + 1, unit)
        for from_step in range(1, ends[-1] + 1):
            due = min(
                (
                    m
                    for e in ends
                    if e >= from_step
                    for m in range(e - unit + 1, e + 1)
                    if not m % every
                ),
                default=ends[-1],
            )
            assert first(from_step, every, selected, each, ends[-1]) == due


def test_a_federated_run_is_comparable_though_it_is_evaluated_at_the_ends_of_rounds(
    tmp_path: Path,
) -> None:
    # LoRA is evaluated at 400, 500 and 600, FedIT with rounds of 30 steps at 420, 510 and 600.
    common: dict[str, Any] = {"total_steps": 600, "config": {"eval_every": 100}}
    write_run(tmp_path, "lora", 1, 0.8, **common, evaluations={"counted": 3, "from_step": 301})
    entry = federation_entry(selected=3, local_steps=10)
    counted = {"counted": 3, "from_step": 302}
    write_run(tmp_path, "fedit", 1, 0.8, **common, evaluations=counted, federation=entry)
    assert only_table(tmp_path).comparable
    # Rounds of 40 steps: the one of 320, due at 300, counts too.
    entry = federation_entry(selected=2, local_steps=20)
    counted = {"counted": 4, "from_step": 302}
    write_run(tmp_path, "ffa_lora", 1, 0.8, **common, evaluations=counted, federation=entry)
    assert not only_table(tmp_path).comparable


def test_a_run_that_diverged_is_noted_in_the_table_of_its_length(tmp_path: Path) -> None:
    for key, steps in (("aaaaaaaa", 90), ("bbbbbbbb", 180)):
        write_run(tmp_path, "lora", 1, 0.8, key=key, total_steps=steps)
    folder = write_run(tmp_path, "dora", 1, 0.8, total_steps=180)
    change_record(folder, "results", status="diverged", reason="diverged at step 3")
    found = tables(read_runs(tmp_path), View(by_length=True))
    assert [(table.steps, diverged(table, scan(tmp_path))) for table in found] == [
        (90, {}),
        (180, {(("dora", "r8"), "sst2"): [1]}),
    ]


def test_a_method_is_titled_as_in_its_newest_record_or_by_its_name_without_one() -> None:
    about = {"paper": None, "budget": "exact", "result": "adapter"}
    runs = [
        {"arithmetic": n, "config": {"method": {"name": "mine"}}, "method": {"title": t, **about}}
        for n, t in ((3, "Old"), (5, "Mine"), (4, "Older"))
    ]
    cells = {Row("mine", "r8"): {"sst2": runs}, Row("dora", "r8"): {"sst2": []}}
    table = Table("dir", "m", View(), cells=cells)
    assert [table.title(name) for name in ("mine", "dora")] == ["Mine", "DoRA (dynamic rank)"]


def test_a_baseline_with_and_without_a_budget_is_compared_with_at_equal_budget() -> None:
    rows = (("lora", "none"), ("lora", "r8"), ("dora", "r8"), ("dora", "r2"))
    table = Table("dir", "m", View(), cells={Row(*row): {} for row in rows})
    assert table.compared_with(Row("dora", "r8")) == Row("lora", "r8")
    assert table.compared_with(Row("dora", "r2")) == Row("lora", "none")


@pytest.mark.parametrize(
    ("typed", "printed"),
    [
        ("0.3M", "0.3M"),
        ("300k", "0.3M"),
        ("300_000", "0.3M"),
        ("13824", "13.8k"),
        ("55296", "55.3k"),
        ("1000", "1k"),
        ("9k", "9k"),
        ("99.9k", "99.9k"),
        ("0.1M", "0.1M"),
        ("1.33M", "1.33M"),
        ("1327104", "1.33M"),
        ("1.234M", "1.23M"),
        ("12M", "12M"),
        ("1000M", "1,000,000,000"),
        ("r8", "r8"),
    ],
)
def test_a_budget_is_printed_in_three_digits(typed: str, printed: str) -> None:
    assert budget_in_words(str(Budget.parse(typed))) == printed


def test_the_name_of_a_view_holds_every_choice() -> None:
    chosen = View("last", {"mrpc": "f1"}, True, ("lr=2e-3",), True)
    assert Table("dir", "m", chosen).name == "dir-m-last-glue-mrpc-f1-lr=0.002-mixed_arithmetic"
    assert Table("dir", "m", View("last", {"mrpc": "f1"}, True)).name == "dir-m-last-glue-mrpc-f1"
    # No table of another length overwrites its files.
    assert Table("dir", "m", View(), steps=90).name == "dir-m-best-90steps"
