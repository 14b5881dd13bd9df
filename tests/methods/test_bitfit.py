"""BitFit: which biases it trains and how many, their gradients, and that nothing else changes."""

import encoders
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import (
    ARCHITECTURES,
    batches,
    loop_of,
    settings_of,
    tiny,
    tokens,
    train_head_only,
    trained,
)
from dora.backbones.backbone import ASSETS
from dora.data import npz
from dora.data.sources import read_dir
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.methods.base import RunInfo
from dora.methods.bitfit import BitFit
from dora.preparing.prepare import prepare
from dora.sharing.exporting import export
from dora.sharing.form import Form
from runs import configure, only_run, run, small, small_glue

# (architecture, layers, width) and the parameters of all biases, as counted in published models.
COUNTS = {
    "roberta-base": ("roberta", 12, 768, 102_144),
    "bert-base": ("bert", 12, 768, 102_912),
    "deberta-v3-base": ("deberta-v2", 12, 768, 102_912),
    "roberta-large": ("roberta", 24, 1024, 271_360),
    "bert-large": ("bert", 24, 1024, 272_384),
    "deberta-v3-large": ("deberta-v2", 24, 1024, 272_384),
}


def attach(model):
    """Returns BitFit attached to the frozen model."""
    model.requires_grad_(False)
    return BitFit(settings_of("bitfit"), model, None, RunInfo(20, 0))


def trained_names(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", COUNTS)
def test_the_biases_of_published_models_are_as_many_as_counted_in_them(name):
    architecture, layers, width, count = COUNTS[name]
    config, kind, own = ARCHITECTURES[architecture]
    # Its vocabulary has no bias, so a small one does. "meta" tensors have no memory.
    with torch.device("meta"):
        model = kind(
            config(
                vocab_size=8,
                hidden_size=width,
                num_hidden_layers=layers,
                num_attention_heads=width // 64,
                intermediate_size=4 * width,
                **own,
            )
        )
    attach(model)
    assert sum(p.numel() for p in trained(model)) == count


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_bias_of_the_backbone_is_trained_and_none_outside(architecture):
    model = tiny(architecture)
    attach(model)
    names = trained_names(model)
    prefix = model.base_model_prefix
    layer = {
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    }
    suffix = "_proj" if architecture == "deberta-v2" else ""
    layer |= {f"attention.self.{name}{suffix}" for name in ("query", "key", "value")}
    expected = {f"encoder.layer.{i}.{name}.bias" for i in range(2) for name in layer}
    expected |= {"embeddings.LayerNorm.bias"}
    # DeBERTa's norm of relative positions; BERT's pooler, which lies inside its backbone.
    expected |= {"encoder.LayerNorm.bias"} if architecture == "deberta-v2" else set()
    expected |= {"pooler.dense.bias"} if architecture == "bert" else set()
    assert names == {f"{prefix}.{name}" for name in expected}


@pytest.mark.usefixtures("float64")
def test_a_biass_gradient_is_the_sum_of_its_outputs_gradient_over_all_tokens():
    model, batch = tiny("roberta"), batches(1)[0]
    attach(model)
    dense = model.roberta.encoder.layer[0].intermediate.dense
    seen = []
    dense.register_full_backward_hook(lambda module, into, out: seen.append(out[0]))
    model(**batch).loss.backward()
    torch.testing.assert_close(dense.bias.grad, seen[0].sum((0, 1)), rtol=1e-12, atol=1e-15)
    assert dense.bias.grad.abs().max() > 0
    assert dense.weight.grad is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_after_training_all_but_biases_and_head_is_bit_identical(architecture, precision):
    model = tiny(architecture, dropout=0.1)
    train_head_only(model)
    method = BitFit(settings_of("bitfit"), model, None, RunInfo(20, 0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loop = loop_of(model, method, tokens(24), 12, lr=1e-2, batch_size=8, precision=precision)
    for step in range(1, 13):
        loop.train_step(step)
    names = trained_names(model)
    for name, p in model.named_parameters():
        # bf16 rounds frozen linears, once; a trained bias beside a frozen weight stays in fp32.
        linear = name.endswith(("dense.weight", "query.weight", "key.weight", "value.weight"))
        halved = precision == "bf16" and (linear or "_proj.weight" in name)
        expected = torch.bfloat16 if halved and name not in names else torch.float32
        assert p.dtype == expected, name
        assert torch.equal(p, before[name].to(p.dtype)) == (name not in names), name


def test_biases_are_not_decayed_even_with_decay_all():
    model = tiny("roberta")
    method = attach(model)
    loop = loop_of(model, method, tokens(8), 12, batch_size=8, decay_all=True, weight_decay=0.1)
    (group,) = [g for g in loop.stepper.optimizer.param_groups if len(g["params"]) > 1]
    assert group["weight_decay"] == 0
    assert sum(p.numel() for p in group["params"]) == 2 * 8 * 32 + 2 * 32 + 32


def test_in_bf16_a_step_gives_the_loss_and_gradients_of_fp32_to_rounding():
    grads, losses = [], []
    for precision in ("fp32", "bf16"):
        model = tiny("roberta")
        method = attach(model)
        loop = loop_of(model, method, tokens(16), 4, batch_size=16, clip=0.0, precision=precision)
        found = {}
        loop.stepper.observe = lambda moment, found=found, model=model: found.update(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )
        losses.append(loop.train_step(1)[0].item())
        grads.append(torch.cat([g.flatten() for _, g in sorted(found.items())]))
    assert losses[0] == pytest.approx(losses[1], abs=5e-3)
    assert {g.dtype for g in grads} == {torch.float32}
    # bf16 has 8 bits of precision, and errors add up over two layers.
    assert F.cosine_similarity(*grads, dim=0) > 0.99


def test_a_backbone_without_biases_is_refused():
    with pytest.raises(UserError, match="trains the backbone's biases, and this one has none"):
        attach(encoders.tiny("modernbert"))


def test_a_budget_changes_neither_size_nor_directory(tmp_path):
    words = ("method=bitfit", f"results={tmp_path}", "data=mini", "task=rte")
    folders = {prepare(configure(*words, f"budget={b}")).folder for b in ("r8", "r2", "0.3M")}
    (folder,) = folders
    assert folder.parts[-3] == "none"


def test_an_export_is_the_base_with_trained_biases_and_gives_the_recorded_logits(tmp_path):
    record = run(small(tmp_path, "method=bitfit", "lr=1e-2", "warmup=0", "max_steps=4"))
    folder = only_run(tmp_path)
    export(folder, tmp_path / "out", Form(merge=True))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    base = load_file(ASSETS / "tiny_roberta" / "model.safetensors")
    stored = load_file(folder / "best.safetensors")
    for name, p in model.named_parameters():
        # The embedded file holds 16 bits.
        assert torch.equal(p, stored[name] if name in stored else base[name].float()), name
    rows = read_dir(TASKS["wnli"], small_glue())["dev"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    batch = tokenizer(
        rows.first, rows.second, truncation=True, max_length=48, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**batch).logits.numpy()
    np.testing.assert_allclose(logits, npz.load(folder)["best/dev/logits"], rtol=0, atol=1e-5)
    # 2 layers of width 192, and the embeddings' norm; the rest of what was trained is the head.
    count = 2 * (7 * 192 + 768) + 192
    assert record["params"]["stored"] == record["params"]["trained_at_once"] == count
    assert record["params"]["trainable"] - record["params"]["head"] == count
