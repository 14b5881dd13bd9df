"""The tensors that a configuration asks for: as Transformers builds them, and none may lack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from dora.backbones import backbone, tensors
from dora.backbones.backbone import Folder, load_model
from dora.backbones.model_config import read_config
from dora.errors import UserError
from folders import edit, model_folder, prepared

# Transformers' defaults for DeBERTa have none of its relative positions.
DEBERTA: dict[str, Any] = {"model_type": "deberta-v2"}


def change(folder: Path, keep: Any = lambda name: True, rename: Any = lambda name: name) -> None:
    """Rewrites the weights, with some tensors left out or under other names."""
    held = {rename(n): t for n, t in load_file(folder / "model.safetensors").items() if keep(n)}
    save_file(held, folder / "model.safetensors")


@pytest.mark.parametrize(
    "own",
    [
        {"model_type": "bert"},
        # Sizes other than the defaults, which configurations leave out.
        {"model_type": "bert", "type_vocab_size": 3, "max_position_embeddings": 70},
        {"model_type": "roberta", "pad_token_id": 1},
        DEBERTA,
        DEBERTA
        # Both spellings of pos_att_type: one text, as in released files, or a list.
        | {"relative_attention": True, "pos_att_type": "c2p|p2c", "norm_rel_ebd": "layer_norm"},
        DEBERTA
        | {
            "relative_attention": True,
            "pos_att_type": ["p2c"],
            "position_buckets": 8,
            "type_vocab_size": 2,
        },
        DEBERTA
        | {
            "relative_attention": True,
            "share_att_key": True,
            "pos_att_type": ["c2p"],
            "position_biased_input": False,
        },
        DEBERTA
        | {
            "embedding_size": 8,
            "conv_kernel_size": 3,
            "conv_groups": 2,
            "max_relative_positions": 9,
        },
    ],
)
def test_the_tensors_asked_for_are_those_that_transformers_builds(own: dict[str, Any]) -> None:
    config = {
        "vocab_size": 30,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        **own,
    }
    # Shapes without memory or time for initialising them.
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(**config))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    if own["model_type"] == "roberta":  # a classifier is built without it
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("pooler.")}
    assert tensors.misfits(config, shapes, "weights") == []
    # Each tensor is left out in turn: a file that lacks any of them has to be refused.
    for name in shapes.keys() - set(tensors.POOLER):
        (problem,) = tensors.misfits(
            config, {n: s for n, s in shapes.items() if n != name}, "weights"
        )
        assert f"lack 1 of the {len(shapes)} tensors that config.json asks for: {name};" in problem


# Prints what is imported while new tensors are on the "meta" device.
UNDER_META = """
import sys, torch
from dora.backbones import tensors

class Watcher:
    def find_spec(self, name, path=None, target=None):
        if torch.empty(0).is_meta:
            print(name)

sys.meta_path.insert(0, Watcher())
sizes = dict.fromkeys(["hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "vocab_size"], 2)
for kind in sys.argv[1:]:
    tensors.misfits(sizes | {"model_type": kind}, {}, "weights")
"""


# Some modules of torch 2.6 compute with tensors when they are first imported, and fail there.
def test_no_module_is_first_imported_under_meta() -> None:
    words = (sys.executable, "-c", UNDER_META, "roberta", "deberta-v2")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("kind", "gone"),
    [
        ("bert", "encoder.layer.1."),
        ("bert", "embeddings.LayerNorm.bias"),
        ("bert", "pooler.dense.bias"),
        ("roberta", "embeddings.position_embeddings"),
        ("roberta", "embeddings.token_type_embeddings"),
        ("deberta-v2", "encoder.rel_embeddings"),
        ("deberta-v2", "encoder.LayerNorm"),
    ],
)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_tensor_of_the_backbone_that_the_file_lacks_is_refused(
    kind: str, gone: str, method: str, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "m", kind)
    change(folder, keep=lambda name: not name.startswith(gone))
    lack = (
        rf"the weights in .* lack \d+ of the \d+ tensors that config.json asks for: {gone}.*only a"
    )
    with pytest.raises(UserError, match=lack):
        prepared(folder, tmp_path, [f"method={method}"])
    # A pickle has no header that can be read alone, so it is refused when it is loaded.
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=lack):
        load_model(Folder(folder, False), 2, None, 1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        # Transformers would load the rest and draw these at random, with a warning.
        ({"vocab_size": 70}, "embeddings.word_embeddings.weight is 60 x 16, not 70 x 16"),
        (
            {"intermediate_size": 32},
            "encoder.layer.0.intermediate.dense.weight is 24 x 16, not 32 x 16",
        ),
        ({"hidden_size": 32}, "embeddings.word_embeddings.weight is 60 x 16, not 60 x 32"),
        (
            {"max_position_embeddings": 128},
            "embeddings.position_embeddings.weight is 64 x 16, not 128 x 16",
        ),
    ],
)
def test_weights_of_another_shape_than_the_config_are_refused(
    changes: dict[str, int], told: str, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    edit(folder / "config.json", **changes)
    with pytest.raises(UserError, match=f"do not fit config.json: {told}"):
        prepared(folder, tmp_path)


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2"])
def test_names_with_a_prefix_and_those_of_old_files_are_known(kind: str, tmp_path: Path) -> None:
    folder = Folder(model_folder(tmp_path / "m", kind), False)
    before, _ = load_model(folder, 2, None, 1)
    change(
        folder.path,
        rename=lambda name: (
            # Saved from a whole model, tensors have its prefix; converted from TensorFlow, gamma
            # and beta.
            tensors.prefix(kind)
            + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
        ),
    )
    assert backbone.problems(folder, read_config(folder.path)) == []
    after, _ = load_model(folder, 2, None, 1)
    assert all(
        torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )


def test_tensors_of_a_layer_that_the_model_does_not_have_are_told(tmp_path: Path) -> None:
    folder = Folder(model_folder(tmp_path / "m", "bert"), False)
    said: list[str] = []
    load_model(folder, 2, None, 1, say=said.append)
    assert said == []
    file = folder.path / "model.safetensors"
    held = load_file(file)
    # As loralib saves them, beside weights that don't hold them, and beside buffers of old versions.
    lora = "encoder.layer.0.attention.self.query.lora_A"
    others = {lora: torch.ones(1, 16), "embeddings.position_ids": torch.arange(64)[None]}
    save_file({**held, **others, "cls.predictions.bias": torch.ones(60)}, file)
    load_model(folder, 2, None, 1, say=said.append)
    assert said == [
        f"the weights in {folder.path} hold tensors that the encoder layers of this bert model do "
        f"not have, and that are not used: {lora}"
    ]


def test_a_pooler_may_be_new_and_is_trained_with_the_head(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    # Masked language modelling, as which most models are saved, has no pooler.
    change(folder, keep=lambda name: not name.startswith("pooler."))
    prepared(folder, tmp_path)
    _, head = load_model(Folder(folder, False), 2, None, 1)
    assert head == [
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    ]


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2"])
def test_more_layers_than_the_configuration_has_are_not_left_out(kind: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", kind)
    # All tensors that the configuration asks for are there: only the surplus tells.
    edit(folder / "config.json", num_hidden_layers=1)
    with pytest.raises(UserError, match=r"hold 2 layers, config.json says num_hidden_layers=1"):
        prepared(folder, tmp_path)


# int8 is how quantised weights are kept: without their scales they mean nothing.
@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    held = load_file(folder / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    held[name] = held[name].to(dtype)
    save_file(held, folder / "model.safetensors")
    with pytest.raises(UserError, match=rf"cannot be trained on: {name} is of {dtype}"):
        load_model(Folder(folder, False), 2, None, 1)


def test_tensors_without_names_are_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    (folder / "model.safetensors").unlink()
    # A pickle may hold any dictionary.
    torch.save({1: torch.zeros(2)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="a tensor is called 1, which is no name"):
        load_model(Folder(folder, False), 2, None, 1)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        # Keys that only a forward pass reads, and shapes that only loading compares.
        ("bert", {"chunk_size_feed_forward": "x"}),
        ("deberta-v2", {"pooler_hidden_act": "zz"}),
        ("deberta-v2", {"pooler_hidden_size": 7}),
    ],
)
def test_a_value_that_no_check_foresaw_shows_before_training(
    kind: str, wrong: dict[str, Any], tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "m", kind)
    edit(folder / "config.json", **wrong)
    with pytest.raises(
        UserError, match=r"no model can be made of config.json and weights in|cannot be used"
    ):
        load_model(Folder(folder, False), 2, None, 1)


def test_a_broken_environment_is_not_blamed_on_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(dict[Any, Any]):
        def __getitem__(self, key: Any) -> Any:
            first = RuntimeError("operator torchvision::nms does not exist")
            raise ModuleNotFoundError("Could not import module 'BertModel'") from first

    tensors._built.cache_clear()
    monkeypatch.setattr(transformers, "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", Broken())
    sizes = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    (problem,) = tensors.misfits({**dict.fromkeys(sizes, 2), "model_type": "bert"}, {}, "weights")
    assert problem == (
        "weights fit no model: Transformers cannot import its own code for bert (RuntimeError: "
        "operator torchvision::nms does not exist): the environment is at fault, and not the model"
    )
