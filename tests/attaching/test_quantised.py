"""Quantised linears of bitsandbytes, which keep their weights packed: QLoRA with the suite's methods."""

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import dora
from dora.errors import UserError
from own_models import STEPS, batch, check_restart, rows, train

bitsandbytes = pytest.importorskip("bitsandbytes", reason="set up on Linux alone")
ROWS = rows("bert")
# peft asks for it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


def quantised(model: nn.Module, bits: int) -> nn.Module:
    """Puts a quantised linear in the place of each that is not the head's; returns the model."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and not name.startswith("classifier"):
            d_in, d_out = module.in_features, module.out_features
            if bits == 4:
                packed = bitsandbytes.nn.Linear4bit(
                    d_in, d_out, quant_type="nf4", compute_dtype=torch.float32
                )
                # On some processors an evaluation packs the weights anew, for evaluations alone.
                packed.support_avx512bf16_for_cpu = False
            else:
                packed = bitsandbytes.nn.Linear8bitLt(d_in, d_out, has_fp16_weights=False)
            packed.load_state_dict(module.state_dict())
            model.set_submodule(name, packed.to("cpu"))  # which quantises it
    return model


def build(bits: int) -> nn.Module:
    """Returns a BERT of two layers with quantised linears; equal arguments give equal weights."""
    torch.manual_seed(0)
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    drops = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=40, intermediate_size=128, **small, **drops)
    return quantised(BertForSequenceClassification(config), bits)


def unpacked(model: nn.Module) -> nn.Module:
    """Puts an nn.Linear with the rounded weight in the place of each of 4 bits; returns the model."""
    for name, module in list(model.named_modules()):
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            W = module.weight
            plain = nn.Linear(module.in_features, module.out_features)
            plain.weight.data = bitsandbytes.functional.dequantize_4bit(W.data, W.quant_state)
            plain.bias.data = module.bias.data
            model.set_submodule(name, plain)
    return model


def attach(model: nn.Module, method: str = "dora", **given) -> dora.Adapter:
    """Attaches a method without dropout."""
    return dora.attach(model.train(), method, "r4", STEPS, **{"dropout": 0.0, **given})


@pytest.mark.parametrize("method", ["lora", "adalora", "dora", "sora", "melora", "lora_pro"])
def test_trains_as_beside_the_unpacked_weights(method):
    # fp32 throughout: packed and unpacked weights hold the same numbers.
    found = []
    for model in (build(4), unpacked(build(4))):
        adapter = attach(model, method)
        train(model, adapter, ROWS)
        found.append((adapter.ranks(), adapter.state_dict()))
    (ranks, packed), (expected_ranks, plain) = found
    assert ranks == expected_ranks
    for name, tensor in plain.items():
        torch.testing.assert_close(packed[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("bits", [4, 8])
def test_gradients_are_those_of_pefts_lora_on_the_same_model(bits):
    model, other = build(bits), build(bits)
    adapter = attach(model, "lora", target=["query", "value"], head=[], alpha=8.0)
    theirs = get_peft_model(
        other, LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"], bias="none")
    )
    layers = {name: theirs.base_model.model.get_submodule(name) for name in adapter.method.layers}
    for name, layer in adapter.method.layers.items():
        layer.B.data.normal_()
        layers[name].lora_A["default"].weight.data = layer.A.data.clone()
        layers[name].lora_B["default"].weight.data = layer.B.data.clone()
    held = batch(ROWS, 1)
    for each in (model, theirs):
        each.eval()(**held)["loss"].backward()
    for name, layer in adapter.method.layers.items():
        for ours, their in ((layer.A, layers[name].lora_A), (layer.B, layers[name].lora_B)):
            assert ours.grad.abs().max() > 0
            torch.testing.assert_close(ours.grad, their["default"].weight.grad)


@pytest.mark.parametrize(("bits", "method"), [(4, "dora"), (8, "adalora")])
def test_is_pruned_to_its_budget_and_read_by_peft(bits, method, tmp_path):
    model, fresh = build(bits), build(bits)
    adapter = attach(model, method)
    train(model, adapter, ROWS)
    assert sum(adapter.ranks().values()) == 4 * len(adapter.ranks())
    adapter.save(tmp_path)
    held = batch(ROWS, 1)
    loaded = PeftModel.from_pretrained(fresh, tmp_path).eval()
    torch.testing.assert_close(loaded(**held)["logits"], model.eval()(**held)["logits"])


@pytest.mark.parametrize("bits", [4, 8])
def test_goes_on_from_its_state(bits):
    def attached():
        model = build(bits)
        adapter = attach(model)
        return model, adapter, torch.optim.AdamW(adapter.parameters(), lr=1e-2)

    check_restart(attached, ROWS, STEPS // 2, "adapter")


def test_in_bf16_the_update_is_computed_in_its_own_type():
    torch.manual_seed(0)
    base = bitsandbytes.nn.Linear4bit(64, 32, quant_type="nf4", compute_dtype=torch.bfloat16)
    model = nn.Sequential(base.to("cpu")).to(torch.bfloat16)
    adapter = dora.attach(model, "lora", "r4", dropout=0.0, alpha=4.0)
    (layer,) = adapter.method.layers.values()
    layer.B.data.normal_()
    x = torch.randn(5, 64).bfloat16()
    update = F.linear(x.float(), layer.A) @ layer.B.T
    torch.testing.assert_close(model(x), base.forward(x) + update.bfloat16(), rtol=0, atol=0)


def test_accelerate_trains_it():
    model = build(4)
    adapter = attach(model)
    accelerator = Accelerator(cpu=True)
    wrapped, optimizer = accelerator.prepare(model, torch.optim.AdamW(adapter.groups(lr=1e-2)))
    losses = []
    for _ in range(STEPS):
        loss = wrapped(**batch(ROWS, 1))["loss"]
        accelerator.backward(loss + adapter.penalty())
        optimizer.step()
        adapter.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    "given",
    [
        {"method": "lora", "init": "pissa"},
        {"method": "weight_decomposed"},
        {"method": "flat_lora"},
        {"method": "nora"},
        {"method": "cora"},
    ],
)
def test_what_computes_with_the_weight_itself_is_refused(given):
    with pytest.raises(UserError, match=r"Linear4bit packs its weight.*without quantisation"):
        attach(build(4), **given).begin()


def test_noise_that_a_packed_weight_cannot_take_is_refused():
    layer = next(iter(attach(build(4), "lora").method.layers.values()))
    layer.perturbed = torch.zeros(64, 64)
    with pytest.raises(UserError, match=r"Linear4bit packs its weight"):
        layer(torch.ones(1, 64))


def test_subclasses_of_the_quantised_linears_are_adapted_too():
    packed = bitsandbytes.nn.LinearNF4(64, 64).to("cpu")
    assert dora.attach(nn.Sequential(packed), "lora", "r4").ranks() == {"0": 4}


def test_a_quantised_head_is_refused_and_the_way_out_named():
    model = build(4)
    model.classifier = bitsandbytes.nn.Linear4bit(64, 2).to("cpu")
    with pytest.raises(UserError, match=r"llm_int8_skip_modules=\['classifier'\]"):
        attach(model)


def test_merging_into_packed_weights_is_refused():
    model = build(4)
    adapter = attach(model, "lora")
    train(model, adapter, ROWS, 2)
    with pytest.raises(UserError, match=r"lost in the rounding of a quantised weight: save\(\)"):
        adapter.merge()
    assert adapter.ranks()  # nothing was merged
