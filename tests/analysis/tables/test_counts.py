"""Counts of what runs store, train and send, against numbers worked out by hand."""

from __future__ import annotations

import csv
import io
from itertools import product
from pathlib import Path
from typing import Any

from dora.analysis.figures.costs import score_by_cost
from dora.analysis.figures.scores import score_by_budget
from dora.analysis.figures.training import adaptive, final_ranks
from dora.analysis.grouping import showable, tables
from dora.analysis.page.study_data import study_data
from dora.analysis.tables.costs import costs
from dora.analysis.tables.counts import federated, trained
from dora.analysis.tables.files import files
from dora.analysis.tables.scores import scores
from dora.analysis.view import View
from dora.records.about_method import adapter_parameters, ranks_of
from dora.records.finished import read_runs
from record_files import federation_entry, names, write_run
from runs import change_record


def test_an_adapter_that_ends_without_a_component_stores_nothing(tmp_path: Path) -> None:
    # As an upper bound allows; a whole model's run has no adapter either, and stores all it trains.
    write_run(tmp_path, "sora", 1, 0.8, params=0)
    write_run(tmp_path, "full", 1, 0.8, budget="none", params=900)
    runs = {run["config"]["method"]["name"]: run for run in read_runs(tmp_path)}
    assert adapter_parameters(runs["sora"], "best") == 0
    params = runs["full"]["params"]
    assert adapter_parameters(runs["full"], "best") == params["trainable"] - params["head"] > 0


def test_a_method_that_leaves_no_file_for_peft_has_a_dash_there(tmp_path: Path) -> None:
    counted = {"trainable": 1000, "head": 100, "adapter_start": 700, "adapter_end": 700}
    # The row with unequal counts is not the last.
    for method, number, in_file in (("dora", 900, 800), ("mine", 700, None)):
        more = {"trained_at_once": number, "trained_in_all": number, "in_peft_file": in_file}
        folder = write_run(tmp_path, method, 1, 0.8)
        change_record(folder, params={**counted, "budget": "r8", **more})
    (table,) = tables(read_runs(tmp_path))
    grid = trained(table)
    assert grid is not None
    assert grid.rows == [
        ["DoRA (dynamic rank)", "r8", "700", "900", "900", "800"],
        ["mine", "r8", "700", "700", "700", "–"],
    ]


def test_clients_and_communication_are_those_of_the_records(tmp_path: Path) -> None:
    def client(*rows: int) -> dict[str, Any]:
        """Returns a client with so many rows of each class."""
        return {"rows": sum(rows), "classes": {str(one): n for one, n in enumerate(rows)}}

    # Two clients of one class under seed 1 and one under seed 2; seed 2 ended after four rounds.
    clients = {
        1: [client(40, 0), client(0, 1_200), client(30, 26)],
        2: [client(20, 0), client(1, 575), client(30, 670)],
    }
    for seed, rounds, sent in ((1, 5, 10_000_000), (2, 4, 8_600_000)):
        steps = {"local_steps": 10, "sequential_steps": 10 * rounds}
        shown = {"selected": 2, "rounds": rounds, **steps, "bytes_in_all": sent}
        about = federation_entry(clients=clients[seed], **shown)
        write_run(tmp_path, "fedit", seed, 0.8, federation=about)
    write_run(tmp_path, "lora", 1, 0.8)
    (table,) = tables(read_runs(tmp_path))
    grid = federated(table)
    assert grid is not None
    # Rows of the smallest and largest client of both runs; 3 clients of one class in 2 runs;
    # 18.6 million bytes in 2 runs.
    counted = ["2 of 3", "20 to 1,200", "1.5", "4 to 5", "10", "40 to 50", "9.3"]
    assert grid.rows == [["fedit", "r8", "SST-2 acc", *counted]]
    assert grid.head[6:9] == ["rounds", "steps of a client in a round", "steps in a row"]


def test_examples_are_shown_where_a_record_has_them(tmp_path: Path) -> None:
    # The records of seed 1 and of FFA-LoRA are of before there was this count.
    for method, seed, more in (
        ("fedit", 1, {}),
        ("fedit", 2, {"examples": 7_000}),
        ("fedit", 3, {"examples": 7_680}),
        ("ffa_lora", 1, {}),
    ):
        write_run(tmp_path, method, seed, 0.8, federation=federation_entry(**more))
    for methods, shown in (((), ["7,000 to 7,680", "–"]), (("ffa_lora",), None)):
        (table,) = tables(read_runs(tmp_path), View(methods=methods))
        grid = federated(table)
        assert grid is not None
        columns = dict(zip(grid.head, zip(*grid.rows, strict=True), strict=True))
        assert columns.get("examples") == (shown and tuple(shown))
        assert ("; examples: " in grid.notes[0]) == bool(shown)
        assert columns["MB in all"][0] == "0.0"


def test_the_counts_of_a_whole_model_are_those_of_its_weights(tmp_path: Path) -> None:
    more = {"trained_at_once": 900, "trained_in_all": 900, "adapter_end": 0, "adapter_start": 0}
    params = {"trainable": 1000, "head": 100, "budget": None, **more, "in_peft_file": None}
    write_run(tmp_path, "full", 1, 0.8, budget="none", params=900)
    (run,) = read_runs(tmp_path)
    (table,) = tables([{**run, "params": params}])
    assert adapter_parameters({**run, "params": params}, "best") == 900
    assert trained(table) is None  # nothing that the table of scores does not say


def test_rules_stand_between_budgets_where_a_row_has_nothing_to_show(tmp_path: Path) -> None:
    counted = {"trainable": 1000, "head": 100, "adapter_start": 900, "adapter_end": 900}
    in_all = {"trained_at_once": 900, "trained_in_all": 1800, "in_peft_file": 900}
    for method, budget in product(("lora", "dora"), ("r4", "r8")):
        old = (method, budget) == ("lora", "r4")  # a record of before there were these counts
        params = {**counted, "budget": budget, **({} if old else in_all)}
        change_record(write_run(tmp_path, method, 1, 0.8, budget=budget), params=params)
    # A second configuration: the cell shows neither.
    write_run(tmp_path, "dora", 2, 0.8, budget="r4", key="ffff0000", config={"lr": 0.5})
    (found,), left_out = showable(read_runs(tmp_path), View())
    assert len(left_out) == 1
    in_costs, in_counts = costs(found), trained(found)
    assert in_counts is not None
    # The older record has no counts.
    for grid, budgets, rules in (
        (scores(found), ["r4", "r4", "r8", "r8"], {2}),
        (in_costs, ["r4", "r8", "r8"], {1}),
        (in_counts, ["r8", "r8"], set()),
    ):
        assert [line[1] for line in grid.rows] == budgets
        assert grid.rules == rules


def write_grown(results: Path) -> None:
    """Writes LoRA of 900 parameters, and a method whose best weights came before its last growth.

    The latter's have 600 or 300 parameters and a rank of 4, the last ones 900 and a rank of 6.
    """
    modules = names(1)
    for seed in (1, 2):
        write_run(results, "lora", seed, 0.8, ranks=dict.fromkeys(modules, 4))
        early = 900 - 300 * seed
        counted = {"adapter_end": early, "adapter_last": 900, "adapter_start": 0}
        in_all = {"trained_at_once": 300, "trained_in_all": 900, "in_peft_file": early}
        params = {"trainable": 1000, "head": 100, "budget": "r8", **counted, **in_all}
        path = write_run(results, "xgblora", seed, 0.8, ranks=dict.fromkeys(modules, 4))
        ranks = {"start": 4, "end": 4, "last": 6}
        each = {when: dict.fromkeys(modules, rank) for when, rank in ranks.items()}
        change_record(path, params=params, ranks=each)


def test_numbers_of_parameters_are_those_of_the_weights_that_are_scored(tmp_path: Path) -> None:
    write_grown(tmp_path)
    in_tables = {"best": ("300 to 600", (300, 600)), "last": ("900", (900, 900))}
    for score, (shown, (least, most)) in in_tables.items():
        (table,) = tables(read_runs(tmp_path), View(score=score))
        for grid, column in ((scores(table), 2), (costs(table), 3)):
            (row,) = [row for row in grid.rows if row[0] == table.title("xgblora")]
            assert row[column] == shown
        # At the last evaluation both methods have 900: no row is smaller than another.
        assert any("fewer parameters than others" in note for note in scores(table).notes) == (
            score == "best"
        )
        (text,) = [text for name, text in files(table, tmp_path, []).items() if _has_cells(name)]
        (line,) = [r for r in csv.DictReader(io.StringIO(text)) if r["method"] == "xgblora"]
        assert [int(line[f"adapter_params_{end}"]) for end in ("min", "max")] == [least, most]
        by_budget, by_cost = score_by_budget(table), score_by_cost(table)
        assert by_budget is not None
        assert by_cost is not None
        drawn = [p["adapter_params"] for p in by_budget[1] if p["method"] == "xgblora"]
        costing = {(p["method"], p["cost"]): p["value"] for p in by_cost[1]}
        assert drawn == [costing["xgblora", "adapter parameters"]] == [(least + most) / 2]
        on_page = [r["params"] for r in study_data([table])["runs"] if r["method"] == "xgblora"]
        assert sorted(on_page) == [least, most]


def _has_cells(name: str) -> bool:
    return name.endswith(("-best.csv", "-last.csv"))


def test_the_file_for_peft_holds_the_best_weights_whatever_the_score(tmp_path: Path) -> None:
    write_grown(tmp_path)
    for score, counted in (("best", "300 to 600"), ("last", "900")):
        (table,) = tables(read_runs(tmp_path), View(score=score))
        grid = trained(table)
        assert grid is not None
        assert grid.rows[-1][2:] == [counted, "300", "900", "300 to 600"]
        said = "The file holds the best weights; counted are the last" in grid.notes[0]
        assert said == (score == "last")


def test_ranks_are_those_of_the_weights_that_are_scored(tmp_path: Path) -> None:
    write_grown(tmp_path)
    best, last = (tables(read_runs(tmp_path), View(score=score))[0] for score in ("best", "last"))
    # The best weights have the ranks of the start.
    assert adaptive(best) == []
    drawn = final_ranks(last)
    assert drawn is not None
    assert {(line["method"], line["rank"]) for line in drawn[1]} == {("xgblora", 6)}
    for table, rank in ((best, 4), (last, 6)):
        on_page = [r["ranks"][1:] for r in study_data([table])["runs"] if r["method"] == "xgblora"]
        assert on_page == [[[4] * 6, [rank] * 6]] * 2


def test_a_record_without_counts_of_the_last_weights_has_those_of_the_best(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8, ranks=dict.fromkeys(names(1), 4))
    (run,) = read_runs(tmp_path)
    assert "adapter_last" not in run["params"]
    assert adapter_parameters(run, "last") == adapter_parameters(run, "best") == 900
    assert ranks_of(run, "last") == run["ranks"]["end"]
