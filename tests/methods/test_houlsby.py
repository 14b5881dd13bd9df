"""Houlsby's and Pfeiffer's adapters: where they stand, what is trained, and runs of them."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from conftest import (
    ARCHITECTURES,
    attach_method,
    linears,
    loop_of,
    settings_of,
    tiny,
    tokens,
    train_head_only,
    trained,
)
from dora.adapters.budget import Budget
from dora.errors import UserError
from dora.methods.base import RunInfo
from dora.methods.houlsby import Houlsby
from dora.methods.pfeiffer import Pfeiffer
from dora.preparing.prepare import prepare
from dora.training.build import build
from dora.training.lines import Lines
from dora.training.processes import World
from runs import (
    configure,
    cut,
    only_run,
    refused,
    run,
    same_files,
    small,
)

BOTH = {"houlsby": Houlsby, "pfeiffer": Pfeiffer}


def attach(name, model, budget="r1", **changes):
    """Returns the method attached to the frozen model; its head is trained."""
    return attach_method(model, name, budget, RunInfo(20, 3), **changes)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("name", "size"), [("houlsby", 4), ("pfeiffer", 8)])
def test_adapters_stand_behind_their_dense_layers_and_alone_are_trained(name, size, architecture):
    model = tiny(architecture)
    method = attach(name, model)
    behind = ["attention.output", "output"] if name == "houlsby" else ["output"]
    prefix = model.base_model_prefix
    places = [f"{prefix}.encoder.layer.{i}.{where}" for i in range(2) for where in behind]
    assert method.ranks() == {f"{place}.dense": size for place in places}
    shapes = {
        n: tuple(p.shape)
        for n, p in model.named_parameters()
        if p.requires_grad and n.startswith(prefix)
    }
    parts = {"down.weight": (size, 32), "down.bias": (size,)}
    parts |= {"up.weight": (32, size), "up.bias": (32,)}
    assert shapes == {f"{at}.adapter.{part}": of for at in places for part, of in parts.items()}


def swish(a):
    return a / (1 + np.exp(-a))


def relu(a):
    return np.maximum(a, 0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "given", "activation"),
    [
        ("houlsby", {}, swish),
        ("pfeiffer", {}, relu),
        ("houlsby", {"activation": "relu"}, relu),
    ],
)
def test_the_end_of_a_layer_computes_what_the_method_is_published_with(name, given, activation):
    model = tiny("roberta").eval()
    attach(name, model, **given)
    half = model.roberta.encoder.layer[1].output
    for p in half.parameters():
        nn.init.normal_(p)
    x, residual = torch.randn(5, 64), torch.randn(5, 32)
    w = {n: p.detach().numpy() for n, p in half.named_parameters()}

    def dense(at, z):
        return z @ w[f"{at}.weight"].T + w[f"{at}.bias"]

    def norm(z):
        centred = z - z.mean(1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(1, keepdims=True) + half.LayerNorm.eps)
        return centred / deviation * w["LayerNorm.weight"] + w["LayerNorm.bias"]

    h, beside = dense("dense", x.numpy()), residual.numpy()
    # Houlsby's adapter reads h, Pfeiffer's the norm of the sum, to which the same norm comes again.
    z = h if name == "houlsby" else norm(h + beside)
    f = dense("adapter.up", activation(dense("adapter.down", z)))
    got = half(x, residual).detach().numpy()
    np.testing.assert_allclose(got, norm(h + f + beside), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", BOTH)
def test_start_values_have_the_set_deviation_and_biases_are_zero(name):
    model = tiny("roberta", hidden=64)
    attach(name, model, "r8", init_std=0.05)
    drawn = {n: p for n, p in model.named_parameters() if ".adapter." in n}
    weights = torch.cat([p.flatten() for n, p in drawn.items() if n.endswith("weight")])
    # 8,192 numbers or more: their deviation is right to 1 %.
    assert weights.std().item() == pytest.approx(0.05, rel=0.03)
    assert all(p.eq(0).all() for n, p in drawn.items() if n.endswith("bias"))
    again = tiny("roberta", hidden=64)
    attach(name, again, "r8", init_std=0.05)
    assert all(torch.equal(dict(again.named_parameters())[n], p) for n, p in drawn.items())


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layer_norm_trains_all_norms_and_counts_them(architecture, name):
    model = tiny(architecture)
    train_head_only(model)
    settings = settings_of(name, layer_norm=True)
    plan = BOTH[name].plan(settings, Budget(params=3_000), linears(model), RunInfo(100, 3))
    BOTH[name](settings, model, plan, RunInfo(20, 3))
    names = [n for n, p in model.named_parameters() if "LayerNorm" in n and p.requires_grad]
    number = 6 if architecture == "deberta-v2" else 5
    assert len(names) == 2 * number
    inside = sum(
        p.numel()
        for n, p in model.named_parameters()
        if p.requires_grad and n.startswith(model.base_model_prefix)
    )
    assert 3_000 - 65 < inside == plan.start_params <= 3_000


def test_a_model_with_other_norms_than_counted_is_refused():
    model = tiny("deberta-v2")
    model.deberta.encoder.LayerNorm = nn.Identity()
    with pytest.raises(UserError, match=r"counts on LayerNorms of 384 parameters .* have 320"):
        attach("houlsby", model, layer_norm=True)


@pytest.mark.parametrize(("architecture", "norms"), [("roberta", 38_400), ("deberta-v2", 39_936)])
def test_the_norms_of_base_models_are_as_many_as_in_the_paper(architecture, norms):
    config, kind, own = ARCHITECTURES[architecture]
    with torch.device("meta"):
        shape = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
        model = kind(config(vocab_size=8, intermediate_size=3072, **shape, **own))
    plans = [
        Houlsby.plan(
            settings_of("houlsby", layer_norm=n), Budget(rank=2), linears(model), RunInfo(100, 3)
        )
        for n in (False, True)
    ]
    assert [plan.start_params for plan in plans] == [313_536, 313_536 + norms]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("architecture", ["roberta", "deberta-v2"])
def test_the_loop_trains_adapters_in_fp32_and_leaves_the_backbone_as_it_is(
    architecture, name, precision
):
    model = tiny(architecture, dropout=0.1)
    method = attach(name, model, dropout=0.1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    loop = loop_of(model, method, tokens(24), 20, lr=1e-2, batch_size=8, precision=precision)
    losses = [loop.train_step(step)[0].item() for step in range(1, 21)]
    assert min(losses[10:]) < losses[0]
    assert {p.dtype for p in trained(model)} == {torch.float32}
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n].to(p.dtype)) != p.requires_grad, n


# --- before a model is loaded ---


@pytest.mark.parametrize("target", ["q,v", "o,ffn2"])
def test_target_is_refused(target):
    (said,) = refused("task=rte", "data=mini", "method=houlsby", f"target={target}")
    assert said == (
        f"target={target} does not apply to Houlsby adapters, which stand behind the outputs of "
        "every layer and adapt no linear: leave target= out"
    )


def test_settings_out_of_range_are_named_all_at_once():
    words = ("method.activation=tanh", "method.init_std=0", "method.dropout=1")
    with pytest.raises(UserError) as caught:
        prepare(configure("task=rte", "data=mini", "method=pfeiffer", *words))
    said = "\n".join(caught.value.problems)
    assert "method.activation=tanh must be one of swish, gelu, relu" in said
    assert "method.init_std=0.0 must lie in [1e-06, inf)" in said
    assert "method.dropout=1.0 must lie in [0, 1)" in said


# --- whole runs ---

SHORT = ("max_steps=4", "lr=1e-2", "warmup=0", "eval_every=3", "limit_train=32")


def test_a_resumed_run_equals_one_left_alone(tmp_path, monkeypatch):
    words = ("method=houlsby", "budget=3k", *SHORT, "method.dropout=0.1")
    record = run(small(tmp_path / "alone", *words))
    cut(tmp_path / "cut", 2, monkeypatch, *words)
    run(small(tmp_path / "cut", "checkpoint_every=1", *words))
    same_files(only_run(tmp_path / "alone"), only_run(tmp_path / "cut"))
    assert record["method"]["result"] == "modules"
    # 2 layers of width 192: 4 adapters of one unit are 2,308 parameters, and a unit costs 385.
    assert record["params"]["stored"] == record["params"]["adapter_last"] == 2_693
    assert record["ranks"]["start"] == record["ranks"]["end"] == record["ranks"]["last"]


def test_a_run_starts_from_anothers_adapters(tmp_path):
    run(small(tmp_path / "first", "method=houlsby", "budget=3k", *SHORT))
    first = only_run(tmp_path / "first")
    words = ("method=houlsby", "budget=r1", *SHORT, f"init_from={first}")
    prepared = prepare(small(tmp_path / "next", *words))
    assert prepared.plan.describe()[0] == "adapters: 1 of bottleneck 2 and 3 of bottleneck 1"
    loop = build(prepared, World(0, 1, torch.device("cpu")), None, Lines(None))
    stored = load_file(first / "best.safetensors")
    for name, tensor in loop.result().items():
        assert torch.equal(tensor, stored[name]) or name in loop.setup.head
    with pytest.raises(UserError, match=r"another method\.activation \(swish\); this run has relu"):
        prepare(small(tmp_path / "relu", *words, "method.activation=relu"))
    with pytest.raises(UserError, match="holds more than budget=2500 allows"):
        prepare(small(tmp_path / "less", "method=houlsby", "budget=2500", f"init_from={first}"))
    # With other settings this run trains tensors that the other has not.
    other = prepare(small(tmp_path / "norms", *words, "method.layer_norm=true"))
    with pytest.raises(UserError, match=r"lacks .*LayerNorm"):
        build(other, World(0, 1, torch.device("cpu")), None, Lines(None))
    run(small(tmp_path / "norms", "method=houlsby", "budget=r1", "method.layer_norm=true", *SHORT))
    words = ("method=houlsby", "budget=r1", *SHORT, f"init_from={only_run(tmp_path / 'norms')}")
    frozen = prepare(small(tmp_path / "frozen", *words))
    # Its norms would change this run's frozen backbone and be in no result.
    with pytest.raises(UserError, match=r"does not fit this run's modules: .*LayerNorm\.bias"):
        build(frozen, World(0, 1, torch.device("cpu")), None, Lines(None))
