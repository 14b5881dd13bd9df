"""Names as papers print them."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import METHODS
from dora.analysis.counts import stored
from dora.analysis.finished import read_runs
from dora.analysis.names import method_title, model_title, size, size_range
from dora.method_choice import packaged
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
