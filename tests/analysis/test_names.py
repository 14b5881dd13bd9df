"""Names as papers print them."""

from __future__ import annotations

from dora.analysis.names import method_title, model_title, size, size_range
from dora.configuration.method_choice import packaged
from dora.methods.released import RELEASED


def test_a_method_is_released_under_the_title_that_its_runs_have() -> None:
    assert {name: packaged(name).kind.title for name in RELEASED} == RELEASED


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
