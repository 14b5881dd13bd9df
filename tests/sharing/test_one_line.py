"""An exported folder loads with one line in PEFT and in a pipeline, and names its labels."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from peft import AutoPeftModelForSequenceClassification
from trained_runs import SCORED, short
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from dora.data.sources import read_dir
from dora.data.tasks import TASKS
from dora.sharing.exporting import export
from dora.sharing.form import Form
from runs import arrays, only_run, run, small, small_glue

pytestmark = [
    # PEFT itself reads the attribute.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # Transformers has put the adapter on the base model, and PEFT puts it there again.
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
]
LABELS = {
    "rte": ["entailment", "not_entailment"],
    "mnli": ["entailment", "neutral", "contradiction"],
    "stsb": ["score"],
}


@dataclass
class Exported:
    """An exported folder, the rows of its development set, and the run's logits of them."""

    task: str
    folder: Path
    texts: list[dict[str, str]]
    logits: np.ndarray

    def of(self, model: torch.nn.Module) -> np.ndarray:
        """Returns the model's logits of the rows, tokenised by the folder's own tokenizer."""
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        batch = tokenizer(
            [row["text"] for row in self.texts],
            [row["text_pair"] for row in self.texts],
            **{"return_tensors": "pt", "padding": True, "truncation": True},
        )
        with torch.no_grad():
            return model.eval()(**batch).logits.numpy()


@pytest.fixture(
    scope="module", params=[pytest.param("rte", marks=pytest.mark.slow), "mnli", "stsb"]
)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exported]:
    """Trains four steps of DoRA on the embedded model, and exports the run."""
    task, place = request.param, tmp_path_factory.mktemp(request.param)
    run(small(place, f"task={task}", "method=dora", "budget=r1", *short()))
    # As of a run on GLUE's own rows, whose card has a model-index.
    with patch("dora.sharing.front_matter.is_glue", return_value=True):
        export(only_run(place), place / "out", Form())
    rows = read_dir(TASKS[task], small_glue(SCORED))["dev"]
    assert rows.second is not None
    texts = [{"text": a, "text_pair": b} for a, b in zip(rows.first, rows.second, strict=True)]
    logits = arrays(only_run(place))["best/dev/logits"]
    assert np.ptp(logits, axis=0).min() > 1e-3  # rows differ, so equal logits are no accident
    yield Exported(task, place / "out", texts, logits)
    shutil.rmtree(place)


def test_peft_knows_classes_and_labels_and_gives_the_recorded_logits(exported: Exported) -> None:
    model = AutoPeftModelForSequenceClassification.from_pretrained(exported.folder)
    assert list(model.config.id2label.values()) == LABELS[exported.task]
    np.testing.assert_allclose(exported.of(model), exported.logits, rtol=0, atol=1e-5)
    with model.disable_adapter():  # the trained head gives way too
        assert np.abs(exported.of(model) - exported.logits).max() > 1e-2
    merged = model.merge_and_unload()
    np.testing.assert_allclose(exported.of(merged), exported.logits, rtol=0, atol=1e-5)


def test_a_pipeline_gives_labels_by_name_wherever_the_folder_lies(
    exported: Exported, tmp_path: Path
) -> None:
    moved = shutil.copytree(exported.folder, tmp_path / "moved")
    found: list[dict[str, Any]] = pipeline("text-classification", model=moved, truncation=True)(
        exported.texts
    )
    if exported.task == "stsb":  # a score as it is, between GLUE's 0 and 5, and no probability
        assert {row["label"] for row in found} == {"score"}
        want = exported.logits[:, 0]
    else:
        best = [LABELS[exported.task][i] for i in exported.logits.argmax(axis=1)]
        assert [row["label"] for row in found] == best
        odds = np.exp(exported.logits)
        want = (odds / odds.sum(axis=1, keepdims=True)).max(axis=1)
    np.testing.assert_allclose([row["score"] for row in found], want, rtol=0, atol=1e-5)


def test_transformers_without_peft_finds_no_head_and_says_so(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("transformers.models.auto.auto_factory.is_peft_available", lambda: False)
    monkeypatch.setattr("transformers.integrations.peft.is_peft_available", lambda: False)
    # The caplog of older versions of pytest hears only what loggers hand on.
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = AutoModelForSequenceClassification.from_pretrained(exported.folder)
    assert not any("lora_" in name for name, _ in model.named_parameters())
    assert re.search(r"classifier\S* *\| MISSING", caplog.text)


def test_the_card_reads_in_the_hubs_own_library(exported: Exported) -> None:
    card = ModelCard.load(exported.folder / "README.md")
    data = card.data
    assert isinstance(data, ModelCardData)
    assert (data.language, data.license, data.library_name) == ("en", "apache-2.0", "peft")
    assert data.pipeline_tag == "text-classification"
    assert data.datasets == ["nyu-mll/glue"]
    # On the hub `dora` alone is weight-decomposed DoRA.
    assert data.tags == ["dora-dynamic-rank", "arxiv:2405.17357", "lora", exported.task, "glue"]
    assert data.eval_results is not None
    assert {(r.dataset_type, r.dataset_config) for r in data.eval_results} == {
        ("nyu-mll/glue", exported.task)
    }
    metrics = {r.metric_type for r in data.eval_results}
    assert metrics == ({"pearsonr", "spearmanr"} if exported.task == "stsb" else {"accuracy"})
    assert "not the weight-decomposed DoRA" in card.text
