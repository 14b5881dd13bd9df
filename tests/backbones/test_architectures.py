"""Every architecture of the table trains, prunes, resumes and is exported; a new one is one row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import tiny
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from conftest import VOCABULARY
from dora.adapters.lowrank import LowRankLinear, Siblings, adapt
from dora.backbones.architectures import ARCHITECTURES, KINDS, layer_and_kind, owner_of
from dora.backbones.attention import attention_mask, packs, speed_up
from dora.backbones.backbone import (
    ASSETS,
    Folder,
    find_linears,
    load_model,
    load_tokenizer,
)
from dora.backbones.model_config import read_config
from dora.backbones.packing import Layout, with_layout
from dora.data import npz
from dora.data.sources import read_dir
from dora.data.tasks import TASKS
from dora.data.tokens import Tokens
from dora.errors import UserError
from dora.sharing.exporting import export
from dora.sharing.form import Form
from runs import cut, only_run, run, same_files, small, small_glue

# What the table lacks: RoBERTa's layers under another name.
OUTSIDER = "data2vec-text"
# And RoBERTa with norms before the halves of a layer, where its residuals hold all tokens.
NORMED_FIRST = "xlm-roberta-xl"
NAMES = [*ARCHITECTURES, OUTSIDER, NORMED_FIRST]
# Other tests train these, and export them; XLM-RoBERTa is RoBERTa with another tokenizer.
OFTEN = ("bert", "roberta", "deberta-v2", "xlm-roberta", NORMED_FIRST)
RUNS = [
    pytest.param(name, name, id=name, marks=pytest.mark.slow if name in OFTEN else ())
    for name in NAMES
]


@pytest.fixture(autouse=True)
def one_row_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the outsiders to the table."""
    row = replace(ARCHITECTURES["roberta"], prefix="data2vec_text.")
    monkeypatch.setitem(ARCHITECTURES, OUTSIDER, row)
    row = replace(ARCHITECTURES["xlm-roberta"], ends={}, first_token=())
    monkeypatch.setitem(ARCHITECTURES, NORMED_FIRST, row)


@pytest.fixture
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Makes a model folder of the architecture, with the embedded RoBERTa's tokenizer."""
    folder = tmp_path / "base"
    skipped = shutil.ignore_patterns("*.safetensors", "config.json")
    shutil.copytree(ASSETS / "tiny_roberta", folder, ignore=skipped)
    model = tiny(request.param, vocabulary=8_000)
    getattr(model, model.base_model_prefix).save_pretrained(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", NAMES)
def test_the_table_finds_every_linear_of_the_encoders_layers(name: str) -> None:
    model, row = tiny(name), ARCHITECTURES[name]
    inside = f"{row.prefix}{row.layers}."
    built = {
        n: (m.in_features, m.out_features)
        for n, m in model.named_modules()
        if n.startswith(inside) and isinstance(m, torch.nn.Linear)
    }
    found = find_linears(model.config.to_dict(), tuple(row.linears))
    assert {m.name: (m.d_in, m.d_out) for m in found} == built
    assert [layer_and_kind(m.name) for m in found] == [
        (i, kind) for i in range(3) for kind in row.linears
    ]
    assert set(row.linears) <= set(KINDS)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_config_that_does_not_say_has_transformers_own_segments_and_positions(name: str) -> None:
    own, row = AutoConfig.for_model(name), ARCHITECTURES[name]
    assert row.segments({}) == (getattr(own, "type_vocab_size", 0) > 1)
    assert row.segments({"type_vocab_size": 1}) is False
    table = next(
        (
            module.num_embeddings
            for path, module in tiny(name).named_modules()
            if path.endswith(".position_embeddings") and isinstance(module, torch.nn.Embedding)
        ),
        None,
    )
    config = tiny(name).config.to_dict()
    first = row.first_position(config)
    assert row.positions(config) == (None if table is None else table - first)


def test_relative_positions_beside_embeddings_of_their_own_have_a_limit() -> None:
    relative = tiny("deberta-v2", position_biased_input=True)
    assert relative.config.relative_attention
    assert relative.deberta.embeddings.position_embeddings.num_embeddings == 70
    assert ARCHITECTURES["deberta-v2"].positions(relative.config.to_dict()) == 70
    relative(torch.full((1, 70), 5))
    with pytest.raises(RuntimeError):
        relative(torch.full((1, 71), 5))


def test_a_linear_is_found_where_another_row_has_its_prefix_and_other_linears(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = replace(ARCHITECTURES["deberta-v2"], linears={"qkv": "attention.self.in_proj"})
    monkeypatch.setitem(ARCHITECTURES, "deberta", row)
    assert layer_and_kind("deberta.encoder.layer.2.attention.self.in_proj") == (2, "qkv")
    assert layer_and_kind("deberta.encoder.layer.2.attention.self.query_proj") == (2, "q")
    assert owner_of("deberta.encoder.layer.0.attention.self.in_proj") is row
    with pytest.raises(ValueError, match="is no linear of an encoder layer"):
        layer_and_kind("deberta.encoder.layer.2.attention.self")


def adapted(name: str) -> tuple[Any, dict[str, LowRankLinear], Any]:
    """Returns a faster model with random components, its layers, and a plain one with the sums."""
    model, plain = (tiny(name).double().requires_grad_(False) for _ in range(2))
    matrices = find_linears(model.config.to_dict(), tuple(ARCHITECTURES[name].linears))
    speed_up(model, torch.device("cpu"))
    layers = adapt(model, matrices, [2] * len(matrices), 0.5, 0.0, gated=True)
    weights = dict(plain.named_parameters())
    for matrix, layer in layers.items():
        layer.double()
        for factor in layer.factors().values():
            torch.nn.init.normal_(factor, std=0.3)
        weights[f"{matrix}.weight"].data += layer.delta()
    return model.eval(), layers, plain.eval()


def rows() -> Tokens:
    """Returns three rows of unequal length, longer than ModernBERT's window."""
    lengths = np.array([20, 7, 13])
    start = np.cumsum(lengths) - lengths
    ids = np.random.default_rng(0).integers(5, VOCABULARY, lengths.sum()).astype(np.int32)
    return Tokens(ids, None, start, lengths, np.zeros(3, int), np.arange(3), pad=1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("float64")
def test_a_faster_adapted_model_is_transformers_own_with_merged_weights(name: str) -> None:
    model, layers, plain = adapted(name)
    tokens, row = rows(), ARCHITECTURES[name]
    batch = tokens.batch(np.arange(3))
    inputs = {key: torch.from_numpy(value) for key, value in batch.items()}
    want = plain(**inputs).logits
    mask = attention_mask(model, batch["attention_mask"])
    assert mask is not None
    got = model(input_ids=inputs["input_ids"], attention_mask=torch.from_numpy(mask)).logits
    torch.testing.assert_close(got, want)
    if packs(model):
        flat = tokens.packed(np.arange(3))
        flat["position_ids"] += row.first_position(model.config.to_dict())
        with with_layout(Layout(tokens.lengths)):
            got = model(**{key: torch.from_numpy(value) for key, value in flat.items()}).logits
        torch.testing.assert_close(got, want)
    # Matrices of one input are computed together, and no output is left over for another input.
    hooks = [h for m in model.modules() for h in m._forward_pre_hooks.values()]
    groups = [hook.layers for hook in hooks if isinstance(hook, Siblings)]
    assert len(groups) == (3 if row.read else 0)
    assert all(layer.ready is None for layer in layers.values())
    got.sum().backward()
    assert all(p.grad is not None for layer in layers.values() for p in layer.factors().values())


def gradients(model: Any, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns the gradient of every parameter for a loss that weighs all logits unlike."""
    (logits * torch.linspace(-1, 2, logits.numel()).view(logits.shape)).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "modernbert"])
@pytest.mark.usefixtures("float64")
def test_a_faster_model_gives_every_weight_its_gradient(name: str) -> None:
    model, plain = (tiny(name).double() for _ in range(2))
    speed_up(model, torch.device("cpu"))
    model.eval()  # after `speed_up`, whose dropout modules are new
    plain.eval()
    tokens = rows()
    batch = {key: torch.from_numpy(value) for key, value in tokens.batch(np.arange(3)).items()}
    want = gradients(plain, plain(**batch).logits)
    if packs(model):
        flat = tokens.packed(np.arange(3))
        flat["position_ids"] += ARCHITECTURES[name].first_position(model.config.to_dict())
        batch = {key: torch.from_numpy(value) for key, value in flat.items()}
    with with_layout(Layout(tokens.lengths) if packs(model) else None):
        got = gradients(model, model(**batch).logits)
    assert got.keys() == want.keys()
    for key, gradient in want.items():
        torch.testing.assert_close(got[key], gradient, msg=lambda text, key=key: f"{key}: {text}")


# A budget of three components less than the start's, pruned after the first steps.
WORDS = ("method=dora", "lr=1e-2", "method.prune_start=0.1", "method.prune_end=0.4")


def peft_logits(base: Path, adapter: Path) -> np.ndarray:
    """Returns PEFT's logits of WNLI's development set."""
    plain = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32)
    data = read_dir(TASKS["wnli"], small_glue())["dev"]
    form: dict[str, Any] = {"truncation": True, "max_length": 48, "padding": True}
    batch = AutoTokenizer.from_pretrained(base)(
        data.first, data.second, return_tensors="pt", return_token_type_ids=False, **form
    )
    with torch.no_grad():
        return PeftModel.from_pretrained(plain, adapter).eval()(**batch).logits.numpy()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(("base", "name"), RUNS, indirect=["base"])
def test_a_run_prunes_resumes_to_the_byte_and_loads_in_peft(
    base: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Segments, where the architecture has them, come from the tokenizer; this one has none.
    if name in ("bert", "electra"):
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps({**config, "type_vocab_size": 1}))
        held = load_file(base / "model.safetensors")
        types = "embeddings.token_type_embeddings.weight"
        save_file({**held, types: held[types][:1].clone()}, base / "model.safetensors")
    words = (*WORDS, f"model.path={base}", "budget=r2")
    done = run(small(tmp_path / "whole", *words))
    ranks = done["ranks"]
    matrices = 3 * len(ARCHITECTURES[name].linears)
    assert sum(ranks["end"].values()) == 2 * matrices < sum(ranks["start"].values())
    assert sorted(done["config"]["target"]) == sorted(ARCHITECTURES[name].linears)
    assert done["model"]["type"] == name
    # In the middle of pruning.
    cut(tmp_path / "cut", 6, monkeypatch, *words)
    run(small(tmp_path / "cut", *words))
    same_files(only_run(tmp_path / "whole"), only_run(tmp_path / "cut"))
    folder = only_run(tmp_path / "whole")
    export(folder, tmp_path / "out", Form())
    want = npz.load(folder)["best/dev/logits"]
    np.testing.assert_allclose(peft_logits(base, tmp_path / "out"), want, atol=1e-5)
    assert np.ptp(want, axis=0).min() > 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("base", NAMES, indirect=True)
def test_recorded_steps_are_the_steps_on_a_gpu(base: Path, tmp_path: Path) -> None:
    words = (f"model.path={base}", "method=dora", "device=cuda", "precision=bf16")
    words = (*words, "max_steps=60", "eval_every=20", "max_length=64")  # lengths come and go
    for graphs in ("true", "false"):
        assert run(small(tmp_path / graphs, *words, f"cuda_graphs={graphs}"))["status"] == "done"
    same_files(only_run(tmp_path / "true"), only_run(tmp_path / "false"))


@pytest.mark.parametrize("base", NAMES, indirect=True)
def test_the_dropout_before_the_output_alone_is_set(base: Path) -> None:
    model, _ = load_model(Folder(base, False), 2, 0.37, seed=1)
    row = ARCHITECTURES[read_config(base)["model_type"]]
    others, _ = load_model(Folder(base, False), 2, None, seed=1)
    changed = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Dropout) and module.p != others.get_submodule(name).p  # type: ignore[union-attr]
    ]
    assert changed == [row.head_dropout]


@pytest.mark.parametrize("base", ["modernbert"], indirect=True)
def test_a_head_that_pretraining_left_is_trained_on_and_its_classifier_is_new(base: Path) -> None:
    before, head = load_model(Folder(base, False), 2, None, seed=1)
    # Masked language modelling's checkpoint: the backbone under its name, and the head.
    held = load_file(base / "model.safetensors")
    whole = {f"model.{name}": tensor for name, tensor in held.items()}
    pretrained = {
        "head.dense.weight": torch.full((32, 32), 7.0),
        "head.norm.weight": torch.full((32,), 7.0),
    }
    save_file({**whole, **pretrained}, base / "model.safetensors")
    model, names = load_model(Folder(base, False), 2, None, seed=1)
    assert names == head
    assert {"head.dense.weight", "head.norm.weight", "classifier.weight"} < set(head)
    assert all(torch.equal(model.state_dict()[n], t) for n, t in pretrained.items())
    after, drawn = model.state_dict()["classifier.weight"], before.state_dict()["classifier.weight"]
    assert after.abs().max() < 1
    assert after.shape == drawn.shape


@pytest.mark.parametrize("base", ["electra", "distilbert", "mpnet"], indirect=True)
def test_a_vocabulary_without_a_configuration_is_read_as_the_architectures(base: Path) -> None:
    for file in base.glob("*token*"):
        file.unlink()
    for name in ("vocab.json", "merges.txt"):
        (base / name).unlink(missing_ok=True)
    mpnet = read_config(base)["model_type"] == "mpnet"
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    marks = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"] if mpnet else marks
    (base / "vocab.txt").write_text("\n".join([*marks, "a", "film"]) + "\n")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "pad_token_id": int(mpnet)}))
    ids = load_tokenizer(Folder(base, False))("a film")["input_ids"]
    assert ids == ([0, 5, 6, 2] if mpnet else [2, 5, 6, 3])


@pytest.mark.parametrize("base", ["modernbert"], indirect=True)
def test_a_kind_that_an_architecture_lacks_is_named_with_those_it_has(
    base: Path, tmp_path: Path
) -> None:
    words = ("method=lora", "budget=r1", f"model.path={base}", "target=[q,o]")
    with pytest.raises(
        UserError, match=r"target=q,o: a layer of a modernbert model has no q; it has qkv, o, glu"
    ):
        run(small(tmp_path, *words))


@pytest.mark.parametrize("base", ["mpnet"], indirect=True)
def test_adapters_train_in_mpnet_which_the_adapters_library_does_not_know(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("method=houlsby", "budget=r1", f"model.path={base}", "max_steps=6", "eval_every=2")
    done = run(small(tmp_path / "whole", *words))
    # A bottleneck of 4 in six places of 32 wide.
    assert done["params"]["adapter_end"] == 6 * (4 * 65 + 32)
    cut(tmp_path / "cut", 3, monkeypatch, *words)
    run(small(tmp_path / "cut", *words))
    same_files(only_run(tmp_path / "whole"), only_run(tmp_path / "cut"))
    with pytest.raises(UserError, match="has no adapters for mpnet"):
        export(only_run(tmp_path / "whole"), tmp_path / "out", Form())


@pytest.mark.parametrize("base", ["distilbert", "modernbert"], indirect=True)
def test_adapters_at_the_end_of_half_layers_are_refused_where_no_module_ends_them(
    base: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="Houlsby adapters stand in modules that end a half layer"):
        run(small(tmp_path, "method=houlsby", "budget=r1", f"model.path={base}"))
