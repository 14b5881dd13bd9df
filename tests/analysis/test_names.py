"""Names as papers print them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import METHODS
from dora.analysis.counts import stored, trained
from dora.analysis.finished import read_runs
from dora.analysis.names import method_title, model_title, size, size_range
from dora.configuration.method_choice import packaged
from record_files import write_run


@pytest.mark.parametrize("method", METHODS)
def test_a_published_row_has_the_title_that_runs_of_its_method_have(method: str) -> None:
    # A method that no published row has is not listed, and keeps its name there.
    assert method_title(method) in (packaged(method).kind.title, method)


def test_names_that_nobody_has_listed_stay_and_sizes_have_three_digits() -> None:
    assert (method_title("zeta"), model_title("tiny_roberta")) == ("zeta", "tiny_roberta")
    assert model_title("roberta_base") == "RoBERTa-base"
    assert [size(n) for n in (770, 13_824, 331_776, 1_327_104)] == [
        "770",
        "13.8k",
        "0.332M",
        "1.33M",
    ]
    assert size_range([331_700, 331_776]) == "0.332M"
    assert size_range([82_600, 82_944]) == "82.6k to 82.9k"


def test_an_adapter_that_ends_without_a_component_stores_nothing(tmp_path: Path) -> None:
    # As an upper bound allows; a whole model's run has no adapter either, and stores all it trains.
    write_run(tmp_path, "sora", 1, 0.8, params=0)
    write_run(tmp_path, "full", 1, 0.8, budget="none", params=900)
    runs = {run["config"]["method"]["name"]: run for run in read_runs(tmp_path)}
    assert stored(runs["sora"]) == 0
    params = runs["full"]["params"]
    assert stored(runs["full"]) == params["trainable"] - params["head"] > 0


def test_a_method_that_leaves_no_file_for_peft_has_a_dash_there() -> None:
    counted = {"adapter_end": 700, "trained_at_once": 900, "trained_in_all": 900}

    def of(name: str, result: str, **more: int | None) -> dict[str, Any]:
        method = {"title": name, "paper": None, "budget": "exact", "result": result}
        config = {"method": {"name": name}, "budget": "r2"}
        return {"config": config, "method": method, "params": {**counted, **more}}

    runs = {
        ("mine", "r2"): [of("mine", "modules", in_peft_file=None)],
        ("dora", "r2"): [of("dora", "adapter", in_peft_file=800)],
        ("old", "r2"): [of("old", "adapter")],
    }
    table: Any = SimpleNamespace(rows=list(runs), runs_of=runs.get, title=str)
    grid = trained(table, "t", set())
    assert grid is not None
    assert [line[-1] for line in grid.rows] == ["–", "800", "700"]


def test_the_counts_of_a_whole_model_are_those_of_its_weights(tmp_path: Path) -> None:
    more = {"trained_at_once": 900, "trained_in_all": 900, "adapter_end": 0, "adapter_start": 0}
    params = {"trainable": 1000, "head": 100, "budget": None, **more, "in_peft_file": None}
    write_run(tmp_path, "full", 1, 0.8, budget="none", params=900)
    (run,) = read_runs(tmp_path)
    table: Any = SimpleNamespace(
        rows=[("full", "none")], runs_of=lambda row: [{**run, "params": params}], title=str
    )
    assert stored({**run, "params": params}) == 900
    assert trained(table, "t", set()) is None  # nothing that the table of scores does not say
