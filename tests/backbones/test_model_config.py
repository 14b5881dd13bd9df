"""config.json is refused by key, before anything is planned, for a value that no model has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dora.backbones import backbone
from dora.backbones.backbone import Folder
from dora.errors import UserError
from folders import edit, model_folder, prepared, remove


@pytest.mark.parametrize(
    # JSON that is no object, no JSON, JSON too deep for the parser, and bytes that are no UTF-8.
    "text",
    ["[]", '"bert"', "null", "3", "", '{"model_type": "bert"', "[" * 100_000, "\udcff"],
)
def test_a_config_that_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"config\.json (holds a|cannot be read)"):
        prepared(folder, tmp_path)


# A list or an object cannot be looked up in a dictionary: it would end in a TypeError.
@pytest.mark.parametrize("kind", [["bert"], {"a": 1}, None, 3])
def test_a_model_type_that_is_no_name_is_refused(kind: object, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    edit(folder / "config.json", model_type=kind)
    with pytest.raises(UserError, match="model; this suite adapts bert, roberta, deberta-v2"):
        prepared(folder, tmp_path)


@pytest.mark.parametrize(
    "key",
    ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"],
)
def test_a_size_that_is_missing_or_absurd_is_refused(key: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    # 10**9 would ask for terabytes; True is an int to Python.
    for value in (0, -1, 10**9, "16", 16.5, None, True, [16]):
        edit(folder / "config.json", **{key: value})
        with pytest.raises(
            UserError, match=rf"config\.json: {key}=.* must be a whole number from 1 to "
        ):
            prepared(folder, tmp_path)
    remove(folder / "config.json", key)
    with pytest.raises(UserError, match=rf"config\.json: {key} is missing"):
        prepared(folder, tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes", "rule"),
    [
        (
            "bert",
            {"num_attention_heads": 3},
            # Transformers finds out only when it builds the model.
            "hidden_size=16 must be a multiple of num_attention_heads=3",
        ),
        (
            "bert",
            {"max_position_embeddings": "64"},
            "max_position_embeddings='64' must be a whole number",
        ),
        ("bert", {"type_vocab_size": -2}, "type_vocab_size=-2 must be a whole number"),
        ("bert", {"hidden_dropout_prob": "0.1"}, r"hidden_dropout_prob='0.1' must lie in \[0, 1\)"),
        (
            "bert",
            {"attention_probs_dropout_prob": 7},
            r"attention_probs_dropout_prob=7 must lie in \[0, 1\)",
        ),
        ("bert", {"layer_norm_eps": "tiny"}, "layer_norm_eps='tiny' must be"),
        ("bert", {"pad_token_id": 60}, r"pad_token_id=60 must be a token's id, from 0 to 59"),
        # Null is fine for the others. RoBERTa counts its positions from this id.
        ("roberta", {"pad_token_id": None}, "pad_token_id=None must be a token's id"),
        ("deberta-v2", {"position_buckets": "8"}, "position_buckets='8' must be a whole number"),
        ("deberta-v2", {"norm_rel_ebd": 1}, "norm_rel_ebd=1 must be a name"),
        ("bert", {"hidden_act": None}, "hidden_act=None must be a name"),
        # Transformers masks later tokens, or passes over trained distances; the loop does neither.
        ("bert", {"is_decoder": True}, "is_decoder=True is a model that is not computed here"),
        (
            "roberta",
            {"position_embedding_type": "relative_key"},
            "position_embedding_type='relative_key' is a model that is not computed here",
        ),
    ],
)
def test_a_value_that_no_model_has_is_refused_with_its_rule(
    kind: str, changes: dict[str, object], rule: str, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "m", kind)
    edit(folder / "config.json", **changes)
    with pytest.raises(UserError, match=rule):
        prepared(folder, tmp_path)


def test_every_wrong_value_comes_in_one_message(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    # A user who mends one mistake a start needs as many starts as mistakes.
    edit(folder / "config.json", hidden_size="x", vocab_size=0, layer_norm_eps=-1)
    with pytest.raises(UserError) as e:
        prepared(folder, tmp_path)
    assert len(e.value.problems) == 3


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2"])
def test_outputs_that_a_config_asks_for_do_not_reach_the_loop(kind: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", kind)
    edit(
        # As configurations for inspecting a model have them. With return_dict=False the loop would
        # get a tuple; hidden states would cost memory at every step.
        folder / "config.json",
        return_dict=False,
        output_hidden_states=True,
        output_attentions=True,
    )
    model, _ = backbone.load_model(Folder(folder, False), 2, None, 1)
    out = model(input_ids=torch.tensor([[2, 7, 3]]))
    assert out.logits.shape == (1, 2)
    assert set(out) == {"logits"}


def test_a_value_that_only_transformers_knows_of_is_a_mistake_too(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    # A name is all that our check knows of; which functions there are, Transformers decides.
    edit(folder / "config.json", hidden_act="no_such_function")
    with pytest.raises(UserError, match=r"the weights in .*m fit no model: config.json .*no_such"):
        prepared(folder, tmp_path)
    for random_weights in (False, True):
        with pytest.raises(UserError, match="no_such_function"):
            backbone.load_model(Folder(folder, random_weights), 2, None, 1)
