"""A run says which settings another one leaves without effect, and says nothing of the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import METHODS
from dora.backbones.backbone import ASSETS
from dora.preparing.notes import notes_on
from dora.preparing.prepare import prepare
from dora.preparing.unused import unused_notes
from runs import configure, small

FEDERATED = ("method=fedit", "fed.local_steps=2")


def told(tmp_path: Path, *words: str) -> list[str]:
    """Returns the notes on settings without effect of a small run with these words."""
    federated = any(
        word in words for word in ("method=fedit", "method=ffa_lora", "method=lora_fair")
    )
    # `small` gives a number of local steps, of which other methods say that it has no effect.
    usual = () if federated else ("fed.local_steps=10",)
    p = prepare(small(tmp_path, *words, *usual))
    found = unused_notes(p.config, p.plan, p.search is not None)
    assert set(found) <= set(notes_on(p))
    return [note.replace(" has no effect", "") for note in found]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=lora", "fed.clients=4"], "fed.clients=4: method=lora has no clients"),
        (["method=lora", "epochs=3"], "epochs=3: max_steps=24 is the run's length"),
        (
            ["method=lora", "rates_from=x.json", "lr=1e-3"],
            "rates_from=x.json: lr=0.001 is given",
        ),
        (
            ["method=lora", "method.base_lr=1e-3"],
            "method.base_lr=0.001: model.own.lr.lora=0.002 is the rate",
        ),
        (
            ["method=lora", "method.base_lr=1e-3", "+rates.wnli.lora=3e-3"],
            "method.base_lr=0.001: rates.wnli.lora=0.003 is the rate",
        ),
        (["method=lora", "keep_model=true"], "keep_model=true: method=lora leaves no whole model"),
        (
            [*FEDERATED, "fed.partition=iid", "fed.alpha=0.1"],
            "fed.alpha=0.1: fed.partition=iid deals equal parts",
        ),
        (
            ["method=lora", "device=cuda", "compile=true", "cuda_graphs=true"],
            "cuda_graphs=true: no step is recorded with compile=true",
        ),
        (
            ["method=lora", "method.deal=first"],
            "method.deal=first: the budget has a component for every matrix",
        ),
        (
            ["method=lora_pro", "method.full_rate=0.1"],
            "method.full_rate=0.1: method.mode=efficient",
        ),
        (
            [
                "method=lora_fair",
                "fed.local_steps=2",
                "method.solver=ridge",
                "method.server_lr=0.1",
            ],
            "method.server_lr=0.1: method.solver=ridge takes no steps",
        ),
        (
            ["method=sora", "method.xi=1e-3", "method.shrink=1"],
            "method.shrink=1.0: method.xi=0.001 stands in for it",
        ),
        (
            ["method=dora", "method.start_factor=1", "method.dem=0.3"],
            "method.dem=0.3: the run starts within its budget, and prunes nothing",
        ),
        (
            ["method=adalora", "method.start_factor=1", "method.remove=false"],
            "method.remove=false: the run starts within its budget, and prunes nothing",
        ),
    ],
)
def test_a_setting_without_effect_is_told_with_the_reason(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert told(tmp_path, "budget=r2", *words) == [said]


@pytest.mark.parametrize(
    "words",
    [
        *([f"method={name}"] for name in METHODS if name != "cora"),  # which needs other runs
        ["method=lora", "epochs=3", "max_steps=null"],
        ["method=full", "keep_model=true"],
        ["method=lora", "method.deal=first", "budget=3k"],
        ["method=dora", "method.dem=0.3", "method.start_factor=2"],
        ["method=lora_pro", "method.mode=full", "method.full_rate=0.1"],
        # A folder's model has no rates of its own.
        ["method=lora", "method.base_lr=1e-3", f"model.path={ASSETS / 'tiny_roberta'}"],
    ],
)
def test_nothing_is_told_of_settings_that_count(words: list[str], tmp_path: Path) -> None:
    assert told(tmp_path, "budget=r2", *words) == []


def test_recorded_steps_need_a_gpu_where_the_run_is_trained() -> None:
    config = configure("method=lora", "cuda_graphs=true", "device=auto")
    there = torch.cuda.is_available()
    said = [] if there else ["cuda_graphs=true has no effect: no step is recorded on a CPU"]
    assert unused_notes(config, None) == said
    assert unused_notes(config, None, here=False) == []


def test_a_hubs_model_beside_a_folder_is_told_where_it_was_typed() -> None:
    words = ("method=lora", "model.path=FOLDER")
    assert unused_notes(configure(*words), None) == []
    assert unused_notes(configure(*words, "model=roberta_base"), None) == []
    given = configure(*words, "model=hub", "model.hub=a/b", "model.revision=abc")
    assert unused_notes(given, None) == [
        "model.hub=a/b has no effect: model.path=FOLDER is the model",
        "model.revision=abc has no effect: model.path=FOLDER is the model",
    ]
