"""Exports load in stock PEFT and plain Transformers and give the logits that the run recorded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from trained_runs import Trained, composed, dora_run, full_run, twelve_layers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import ARCHITECTURES
from dora.adapters.peft import adapter_config
from dora.backbones.backbone import ASSETS, Folder, find_linears, fingerprint
from dora.backbones.model_config import read_config
from dora.errors import UserError
from dora.sharing.exporting import export
from dora.sharing.form import Form
from dora.sharing.merging import find_base
from runs import only_run, run

# PEFT itself reads the attribute.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
# Each architecture and each method once in the default tests; the other pairs are slow.
QUICK = [("roberta", "dora"), ("bert", "lora"), ("deberta-v2", "adalora")]
PAIRS = [
    pytest.param(
        (kind, method),
        id=f"{kind}-{method}",
        marks=() if (kind, method) in QUICK else pytest.mark.slow,
    )
    for kind in ARCHITECTURES
    for method in ("lora", "adalora", "dora")
]


@pytest.fixture(scope="module", params=PAIRS)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trained]:
    """Trains four steps on 12 layers, for each architecture and method."""
    kind, method = request.param
    place = tmp_path_factory.mktemp(kind)
    base = twelve_layers(kind, place / "base")
    config = composed(method)
    # A hub's name beside a path: the path is what was read, and must be what is recorded.
    model = replace(config.model, path=str(base), hub="owner/another")
    record = run(replace(config, model=model, results=str(place)))
    yield Trained(only_run(place), record, base)
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def one() -> Trained:
    return dora_run()


@pytest.fixture(scope="module")
def full() -> Trained:
    return full_run()


def test_stock_peft_gives_our_logits_with_unequal_and_zero_ranks(
    trained: Trained, tmp_path: Path
) -> None:
    ranks = trained.record["ranks"]["end"]
    held = {int(m[1]) for n, r in ranks.items() if r and (m := re.search(r"layer\.(\d+)\.", n))}
    assert {1, 11} <= held  # one name begins as the other: a pattern must tell them apart
    assert 0 in ranks.values()
    # Ranks that training decides are of three kinds at least; LoRA's are 0 and 1.
    decided = trained.record["ranks"]["start"] != ranks
    assert len(set(ranks.values())) >= (3 if decided else 2)
    export(trained.folder, tmp_path / "out", Form(alone=True))
    base = AutoModelForSequenceClassification.from_pretrained(
        trained.base, num_labels=2, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(trained.base)
    peft = PeftModel.from_pretrained(base, tmp_path / "out")
    named = peft.peft_config["default"].base_model_name_or_path
    assert named == str(trained.base)  # not the hub's, which was not read
    ours, theirs = trained.recorded(), trained.logits(peft, tokenizer)
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.ptp(ours, axis=0).min() > 1e-3  # rows differ, so equal logits are no accident
    # With B = 0 the head remains.
    for name, p in peft.named_parameters():
        if "lora_B" in name:
            p.data.zero_()
    without = trained.logits(peft, tokenizer)
    assert np.abs(ours - without).max() > 1e-2  # nor is the head all there is


def test_plain_transformers_gives_our_logits_of_a_merged_model(
    trained: Trained, tmp_path: Path
) -> None:
    export(trained.folder, tmp_path / "out", Form(merge=True))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32  # a sum rounded to 16 bits would lose the adapter
    theirs = trained.logits(model, AutoTokenizer.from_pretrained(tmp_path / "out"))
    assert np.abs(trained.recorded() - theirs).max() < 1e-5
    assert model.config.id2label == {0: "not_entailment", 1: "entailment"}
    assert model.config.problem_type == "single_label_classification"


def test_the_files_lora_tensors_are_what_run_json_counts(trained: Trained, tmp_path: Path) -> None:
    export(trained.folder, tmp_path / "out", Form())
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", "np") as f:
        names = list(f.keys())
        held = sum(f.get_tensor(n).size for n in names if "lora_" in n)
        head = sum(f.get_tensor(n).size for n in names if "lora_" not in n)
    matrices = find_linears(read_config(trained.base), trained.record["config"]["target"])
    # Counted a third time, from ranks and shapes.
    ranks = trained.record["ranks"]["end"]
    assert held == sum(ranks[m.name] * (m.d_in + m.d_out) for m in matrices) > 0
    assert held == trained.record["params"]["adapter_end"]
    assert head == trained.record["params"]["head"]
    saved = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["modules_to_save"]
    # DeBERTa's pooler lies outside its backbone, and is drawn with the head.
    pooler = ["pooler"] if matrices[0].name.startswith("deberta.") else []
    assert saved == ["classifier", *pooler]


def test_patterns_name_one_matrix_each() -> None:
    names = [
        f"bert.encoder.layer.{i}.{end}"
        for i in (1, 11)
        for end in ("attention.output.dense", "output.dense")
    ]
    config = adapter_config(dict(zip(names, (1, 2, 3, 0), strict=True)), "base", ["classifier"])
    assert config["target_modules"] == names[:3]
    assert config["rank_pattern"] == config["alpha_pattern"]
    # Names in which another character stands for a dot: an unescaped pattern would match them.
    others = [*names, "bertxencoder.layer.1.output.dense", "bert.encoder.layer.1xoutput.dense"]
    for pattern, rank in config["rank_pattern"].items():
        # As PEFT matches them.
        assert [n for n in others if re.match(rf"(.*\.)?({pattern})$", n)] == [names[rank - 1]]


def test_full_fine_tuning_exports_the_model_it_kept(full: Trained, tmp_path: Path) -> None:
    export(full.folder, tmp_path / "out", Form())
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert np.abs(full.recorded() - full.logits(model, tokenizer)).max() < 1e-5
    assert "library_name: transformers\n" in (tmp_path / "out" / "README.md").read_text()
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    assert tokenizer.model_max_length == full.record["config"]["max_length"] == 48


def test_a_base_model_that_moved_is_found_by_name_and_another_is_refused(
    one: Trained, tmp_path: Path
) -> None:
    moved = shutil.move(one.base, tmp_path / "moved")
    try:
        with pytest.raises(UserError, match=r"does not exist; .*; or name its .* --base FOLDER"):
            export(one.folder, tmp_path / "a", Form(merge=True))
        with pytest.raises(UserError, match="is not the model this run trained on"):
            export(one.folder, tmp_path / "a", Form(merge=True, base=ASSETS / "tiny_deberta"))
        assert not (tmp_path / "a").exists()
        export(one.folder, tmp_path / "a", Form(base=moved, alone=True))
        config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(moved)
    finally:
        shutil.move(moved, one.base)  # other tests use the run


def test_an_embedded_base_is_found_wherever_the_package_lies() -> None:
    # The record was made where the package lay in another folder.
    here = Folder(ASSETS / "tiny_deberta", random_weights=False)
    record = {
        "config": {"model": "tiny_deberta"},
        "model": {"revision": None},
        "fingerprints": {"model": fingerprint(here)},
    }
    assert find_base(record, "/elsewhere/assets/tiny_deberta", None) == here
