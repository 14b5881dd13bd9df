"""A method that trains some of the backbone is exported as a whole model with its tensors in place.

The record is made up: biases and head of the embedded RoBERTa, as BitFit would leave them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import record_files
from dora.backbones.backbone import ASSETS, Folder, fingerprint, load_model
from dora.errors import UserError
from dora.records import artefacts
from dora.sharing.exporting import export
from dora.sharing.form import Form
from runs import change_record

BASE = Folder(ASSETS / "tiny_roberta", random_weights=False)
ABOUT = {"title": "Biases", "paper": "A 2022", "budget": "none", "result": "weights"}


def trained() -> dict[str, Tensor]:
    """Returns every bias of the backbone, and the head, at values that no base model has."""
    # Another seed than the run's: an exported head must not be one that was drawn again.
    model, head = load_model(BASE, 2, None, seed=7)
    torch.manual_seed(1)
    return {
        name: p.detach() + torch.randn(p.shape)
        for name, p in model.named_parameters()
        if name.endswith(".bias") or name in head
    }


def write(folder: Path, tensors: dict[str, Tensor], **model: Any) -> Path:
    """Writes a finished run's directory; `model`: what its record says of the base model."""
    held = sum(t.numel() for t in tensors.values())
    none = {"budget": None, "adapter_start": 0, "adapter_end": 0}
    params = {"trainable": held, "head": 65_000, **none}
    place = record_files.write_run(
        folder,
        "biases",
        1,
        0.5,
        task="rte",
        budget="none",
        model="tiny_roberta",
        config={"budget": None},
        fingerprints={"model": fingerprint(BASE)},
    )
    save_file(tensors, place / "best.safetensors")
    known = {"hub": None, "revision": None, "path": None, "random_weights": False, **model}
    files = artefacts.sums(place, ["best.safetensors"])
    change_record(place, method=ABOUT, params=params, model=known, files=files)
    return place


def rename_model(run: Path) -> None:
    """Gives the record a model that is not embedded in the package."""
    config = json.loads((run / "run.json").read_text())["config"]
    change_record(run, config={**config, "model": "elsewhere"})


@pytest.mark.parametrize("merge", [False, True])
def test_the_export_is_the_base_model_with_every_trained_tensor(
    merge: bool, tmp_path: Path
) -> None:
    tensors = trained()
    export(write(tmp_path, tensors), tmp_path / "out", Form(merge=merge))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    base = load_file(BASE.path / "model.safetensors")
    found = dict(model.named_parameters())
    assert tensors.keys() < found.keys()
    for name, p in found.items():
        # The embedded file holds 16 bits.
        expected = tensors[name] if name in tensors else base[name].float()
        assert torch.equal(p, expected), name
    assert model.config.id2label == {0: "entailment", 1: "not_entailment"}
    AutoTokenizer.from_pretrained(tmp_path / "out")
    assert not list((tmp_path / "out").glob("adapter*"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: transformers\n" in card
    assert f"Biases, {sum(t.numel() for t in tensors.values()):,} parameters trained\n" in card
    assert "there is no adapter: an export with and without --merge is the same" in card
    assert "method: Biases, A 2022" in card
    assert "adapter as stored" not in card


def test_a_base_that_moved_is_named_with_base(tmp_path: Path) -> None:
    run = write(tmp_path, trained(), path="/nowhere/model")
    rename_model(run)
    with pytest.raises(UserError, match=r"/nowhere/model does not exist.*--base FOLDER"):
        export(run, tmp_path / "out", Form())
    export(run, tmp_path / "out", Form(base=BASE.path))  # found by its fingerprint, not by a name
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_record_that_names_no_base_asks_for_it(tmp_path: Path) -> None:
    run = write(tmp_path, trained())
    rename_model(run)
    with pytest.raises(UserError, match="does not say where the base model lies; name its folder"):
        export(run, tmp_path / "out", Form())


@pytest.mark.parametrize(("hub", "revision"), [("../../x", "main"), ("owner/name", "a..b")])
def test_a_base_that_no_hub_can_have_is_not_asked_for(
    hub: str, revision: str, tmp_path: Path
) -> None:
    run = write(tmp_path, trained(), hub=hub, revision=revision)
    with pytest.raises(UserError, match="is none of the hub; name the model's folder with --base"):
        export(run, tmp_path / "out", Form())


def test_tensors_that_the_base_does_not_have_are_named_all_at_once(tmp_path: Path) -> None:
    tensors = trained()
    del tensors["classifier.out_proj.weight"]
    # One number, which would be broadcast over the whole bias.
    first = "roberta.encoder.layer.0.attention.output.dense.bias"
    tensors |= {"roberta.encoder.layer.99.bias": torch.zeros(3), first: torch.zeros(1)}
    with pytest.raises(UserError) as caught:
        export(write(tmp_path, tensors), tmp_path / "out", Form())
    said = "\n".join(caught.value.problems)
    assert "holds roberta.encoder.layer.99.bias, which the base model does not have" in said
    assert f"holds {first} of shape (1,), in the base model it has (" in said
    assert "lacks the head's classifier.out_proj.weight" in said
    assert len(caught.value.problems) == 3
    assert not (tmp_path / "out").exists()


def test_weights_that_are_absent_damaged_or_of_random_models_are_refused(tmp_path: Path) -> None:
    run = write(tmp_path, trained())
    file = run / "best.safetensors"
    # A flipped bit first: a checksum alone tells of it. Then a file that is no file of tensors.
    content = bytearray(file.read_bytes())
    content[-9] ^= 0x40
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"best\.safetensors is damaged or another's"):
        export(run, tmp_path / "out", Form())
    file.write_bytes(b"cut")
    with pytest.raises(UserError, match=r"best\.safetensors cannot be read.*force=true"):
        export(run, tmp_path / "out", Form())
    file.unlink()
    with pytest.raises(UserError, match="holds no weights, its record was kept without them"):
        export(run, tmp_path / "out", Form())
    random = write(tmp_path / "random", trained(), random_weights=True)
    with pytest.raises(UserError, match="adapts random weights, which are in no file"):
        export(random, tmp_path / "out", Form())
