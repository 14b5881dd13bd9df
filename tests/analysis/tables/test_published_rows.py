"""Published rows in the table of scores: under a rule, with daggers, where they say something."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from dora.analysis.grouping import tables
from dora.analysis.table import Table
from dora.analysis.tables.published_rows import published_rows
from dora.analysis.tables.scores import scores
from dora.analysis.view import View
from dora.records.finished import read_runs
from record_files import write_run
from runs import change_record

# Every task that LoRA's Table 2 is over.
GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte")


def study(results: Path, model: str, *tasks: str, view: View | None = None) -> Table:
    for task in tasks:
        write_run(results, "lora", 1, 0.9, task=task, model=model, budget="0.3M", params=294_912)
    (table,) = tables(read_runs(results), view)
    return table


def rows_of(table: Table) -> dict[tuple[str, str], list[str]]:
    """Returns the published rows by method, without its dagger, and parameters."""
    grid = scores(table)
    return {(r[0].partition(" †")[0], r[2]): r for r in grid.rows if "†" in r[0]}


def test_published_rows_stand_under_a_rule_and_are_never_marked(tmp_path: Path) -> None:
    grid = scores(study(tmp_path, "roberta_base", "sst2", "mrpc"))
    ours = [i for i, row in enumerate(grid.rows) if "†" not in row[0]]
    assert ours == [0]
    assert 1 in grid.rules
    assert not grid.bold | grid.underlined
    # LoRA's Table 2: MRPC started from the MNLI adapter there.
    row = next(r for r in grid.rows if r[0].startswith("LoRA †") and r[2] == "0.3M")
    assert row[1:5] == ["–", "0.3M", "95.1 ± 0.2", "89.7 ± 0.7⋄"]
    letter = row[0][-1]
    (note,) = [note for note in grid.notes if note.startswith(f"†{letter} ")]
    assert note == (
        f"†{letter} published: LoRA, Hu et al. 2021, arXiv 2106.09685, Table 2; "
        "median of 5 seeds, best epoch; LoRA on q+v"
    )
    assert "⋄ started from the adapter of MNLI" in grid.notes


def test_a_row_without_a_number_is_left_out_with_its_note(tmp_path: Path) -> None:
    table = study(tmp_path, "roberta_base", *GLUE)
    assert "DoRA (dynamic rank)" not in {name for name, _ in rows_of(table)}
    assert not any("never guess" in note for note in scores(table).notes)
    # MELoRA's one number is on MRPC.
    assert "MELoRA" in {name for name, _ in rows_of(table)}
    assert "MELoRA" not in {
        name for name, _ in rows_of(study(tmp_path / "b", "roberta_base", "rte"))
    }
    assert published_rows(study(tmp_path / "c", "minilm", "sst2")) == ([], [])


def test_no_published_number_stands_beside_scores_on_other_rows(tmp_path: Path) -> None:
    for task, data in product(("sst2", "rte"), ("dir", "mini")):
        folder = write_run(tmp_path, "lora", 1, 0.9, task, model="roberta_base", data=data)
        if (task, data) == ("sst2", "dir"):
            rows = {"train": 500, "dev": 100}
            change_record(folder, data={"revision": None, "rows": rows, "train": 500})
    on_files, on_mini = sorted(tables(read_runs(tmp_path)), key=lambda table: table.data)
    assert rows_of(on_mini) == {}
    # Method, budget and parameters; then SST-2, of which these files hold a sample, and RTE.
    assert rows_of(on_files)["LoRA", "0.3M"][3:5] == ["–", "86.6 ± 0.7⋄"]


def test_no_published_number_stands_beside_drawn_weights(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "lora", 1, 0.9, model="roberta_base")
    assert rows_of(tables(read_runs(tmp_path))[0])
    change_record(folder, model={"revision": None, "random_weights": True})
    assert rows_of(tables(read_runs(tmp_path))[0]) == {}


def test_a_papers_average_stands_only_beside_one_over_the_same_tasks(tmp_path: Path) -> None:
    # As the paper prints it, over its eight tasks.
    assert rows_of(study(tmp_path, "roberta_base", *GLUE))["LoRA", "0.3M"][-1] == "87.2"
    some = rows_of(study(tmp_path / "b", "roberta_base", *GLUE[:-1]))
    assert some["LoRA", "0.3M"][-1] == "–"
    # Ours over the means of metrics, as the leaderboard counts: the paper has accuracy on MRPC.
    glue = rows_of(study(tmp_path / "c", "roberta_base", *GLUE, view=View(glue=True)))
    assert glue["LoRA", "0.3M"][-1] == "87.2 (other metrics)"


def test_sizes_are_spelled_as_ours_and_a_rank_is_a_budget(tmp_path: Path) -> None:
    grid = scores(study(tmp_path, "roberta_base", "sst2"))
    sizes = {r[0].partition(" †")[0]: r[1:3] for r in grid.rows if "†" in r[0]}
    assert sizes["PiSSA"] == ["r8", "–"]
    assert sizes["BitFit"] == ["–", "0.1M"]
    assert ["–", "all 125M"] in [r[1:3] for r in grid.rows if r[0].startswith("full")]


def test_a_metric_that_is_not_the_tables_is_named(tmp_path: Path) -> None:
    study(tmp_path, "deberta_v3_base", "stsb")
    runs = read_runs(tmp_path)

    def shown(view: View | None) -> list[str]:
        """Returns STS-B of AdaLoRA at 1.27M, by its paper and by a reprint."""
        rows = scores(tables(runs, view)[0]).rows
        return [r[3] for r in rows if r[0].startswith("AdaLoRA") and r[2] == "1.27M"]

    # The paper prints the mean of both correlations; the reprint does not say which it is.
    assert shown(None) == ["91.8 (mean)", "91.4 (corr.)"]
    assert shown(View(metrics={"stsb": "mean"})) == ["91.8", "91.4 (corr.)"]


def test_matrices_that_are_adapted_are_named_with_the_source(tmp_path: Path) -> None:
    notes = scores(study(tmp_path, "deberta_v3_base", "rte")).notes
    (adalora,) = [n for n in notes if "Zhang et al. 2023" in n]
    assert adalora.endswith("; LoRA, AdaLoRA on all matrices")
    (sora,) = [n for n in notes if "SoRA protocol" in n]
    assert "AFLoRA on matrices not stated; LoRA, AdaLoRA, SoRA on all matrices" in sora


def test_a_choice_of_methods_holds_for_published_rows(tmp_path: Path) -> None:
    table = study(tmp_path, "roberta_base", "sst2", view=View(methods=("lora",)))
    assert {name for name, _ in rows_of(table)} == {"LoRA"}
