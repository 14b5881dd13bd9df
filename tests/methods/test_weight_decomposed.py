"""Weight-decomposed DoRA beside PEFT's use_dora, NumPy in float64, and a case worked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exported import dev_logits
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

import dora
from conftest import attach_method, settings_of, tiny
from dora.adapters.budget import Budget, Matrix
from dora.adapters.peft import factor_name, magnitude_name
from dora.data import npz
from dora.methods.base import RunInfo
from dora.methods.cora import _directions, _update
from dora.methods.weight_decomposed import DecomposedLinear, WeightDecomposed
from dora.sharing.exporting import export
from dora.sharing.form import Form
from runs import only_run, run, small

# PEFT reads an attribute that Transformers deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


def attach(model: nn.Module, budget: str = "r2", **given: float) -> WeightDecomposed:
    """Returns the method attached to the model, whose head is trained too."""
    return attach_method(model, "weight_decomposed", budget, **given)


def layer_of(d_in: int, d_out: int, rank: int, scale: float = 0.5) -> DecomposedLinear:
    """Returns a layer whose A, B and m are drawn."""
    torch.manual_seed(0)
    layer = DecomposedLinear(nn.Linear(d_in, d_out), rank, scale, 0.0, False)
    for p in layer.factors().values():
        nn.init.normal_(p)
    return layer


def test_a_case_worked_by_hand() -> None:
    # V = W0 + s B A = [[3, 4], [0, 5]] with rows of length 5 and 5, made 10 and 1 long.
    layer = layer_of(2, 2, 1, scale=2.0)
    with torch.no_grad():
        layer.base.weight.copy_(torch.tensor([[3.0, 2.0], [0.0, 5.0]]))
        layer.base.bias.copy_(torch.tensor([1.0, -1.0]))
        layer.A.copy_(torch.tensor([[0.0, 1.0]]))
        layer.B.copy_(torch.tensor([[1.0], [0.0]]))
        layer.m.copy_(torch.tensor([10.0, 1.0]))
    y = layer(torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(y, torch.tensor([[10 * 7 / 5 + 1, 5 / 5 - 1]]))
    y.sum().backward()
    torch.testing.assert_close(layer.m.grad, torch.tensor([7 / 5, 1.0]))
    # s times (m / ‖V‖) dy (A x), with ‖V‖ for a constant: 2 · 2 · 1 and 2 · 0.2 · 1.
    torch.testing.assert_close(layer.B.grad, torch.tensor([[4.0], [0.4]]))


# 3 rows go beside the weight, 500 are merged into it.
@pytest.mark.parametrize("rows", [3, 500])
@pytest.mark.usefixtures("float64")
def test_outputs_and_gradients_are_those_of_numpy(rows: int) -> None:
    layer = layer_of(8, 12, 3)
    x, dy = torch.randn(rows, 8).requires_grad_(), torch.randn(rows, 12)
    y = layer(x)
    y.backward(dy)
    W, b, A, B, m, X, dY = (
        t.detach().numpy()
        for t in (layer.base.weight, layer.base.bias, layer.A, layer.B, layer.m, x, dy)
    )
    V = W + 0.5 * B @ A
    norms = np.sqrt((V**2).sum(1))
    dV = (m / norms)[:, None] * (dY.T @ X)
    for got, want in (
        (y, X @ V.T * (m / norms) + b),
        (x.grad, (dY * (m / norms)) @ V),
        (layer.m.grad, (dY * (X @ V.T)).sum(0) / norms),
        (layer.A.grad, 0.5 * B.T @ dV),
        (layer.B.grad, 0.5 * dV @ A.T),
    ):
        np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-10, atol=1e-12)


def test_training_is_that_of_pefts_use_dora() -> None:
    """Five steps of a whole encoder, every trained tensor after each."""
    ours, bare = tiny("roberta"), tiny("roberta")
    method = attach(ours, "r3")
    names = list(method.layers)
    config = LoraConfig(
        r=3,
        lora_alpha=16,
        target_modules=names,
        use_dora=True,
        modules_to_save=["classifier"],
        task_type="SEQ_CLS",
    )
    theirs = get_peft_model(bare, config)
    pairs = []
    for name, layer in method.layers.items():
        other = theirs.base_model.model.get_submodule(name)
        parts = (
            (layer.A, other.lora_A["default"].weight),
            (layer.B, other.lora_B["default"].weight),
            (layer.factors()["m"], other.lora_magnitude_vector["default"].weight),
        )
        parts[0][1].data.copy_(layer.A.data)
        pairs += parts
    assert all(torch.equal(one, two) for one, two in pairs)  # B and m begin alike by themselves
    optimizers = [
        torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0
        )
        for model in (ours, theirs)
    ]
    ids = torch.randint(5, 40, (8, 12), generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            logits = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            losses.append(F.cross_entropy(logits, ids[:, 0] % 2))
            losses[-1].backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    for one, two in pairs:
        torch.testing.assert_close(one.data, two.data, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("float64")
def test_dropout_is_of_the_whole_change_as_in_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = layer_of(8, 12, 3)
    ours.dropout = 0.3
    config = LoraConfig(r=3, lora_dropout=0.3, target_modules=["0"], use_dora=True)
    theirs = get_peft_model(nn.Sequential(nn.Linear(8, 12)), config)
    other = theirs.base_model.model[0]
    other.base_layer.load_state_dict(ours.base.state_dict())
    other.scaling["default"] = ours.scale
    factors = {
        "A": other.lora_A["default"].weight,
        "B": other.lora_B["default"].weight,
        "m": other.lora_magnitude_vector["default"].weight,
    }
    for name, p in factors.items():
        p.data.copy_(ours.factors()[name])
    ours.train()
    theirs.train()
    kept = (torch.rand(20, 8) > 0.3) / 0.7
    monkeypatch.setattr(F, "dropout", lambda x, p, training=True, *_: x * kept if training else x)
    x, dy = torch.randn(20, 8), torch.randn(20, 12)
    found = []
    for model, own in ((ours, ours.factors()), (theirs, factors)):
        given = x.clone().requires_grad_()
        y = model(given)
        found.append([y, *torch.autograd.grad(y, [given, *own.values()], dy)])
        assert not torch.allclose(y, model.eval()(x))
    torch.testing.assert_close(*found)


def test_dropout_of_siblings_is_drawn_apart() -> None:
    model = tiny("roberta")
    attach(model, dropout=0.5)
    attention = model.get_submodule("roberta.encoder.layer.0.attention.self")
    assert not attention._forward_pre_hooks


def test_training_begins_at_the_backbone() -> None:
    ids = torch.arange(5, 17).view(1, 12)
    bare, model = tiny("roberta").eval(), tiny("roberta").eval()
    method = attach(model)
    for layer in method.layers.values():
        norms = layer.base.weight.norm(dim=1)
        torch.testing.assert_close(layer.factors()["m"].data, norms, rtol=0, atol=0)
    torch.testing.assert_close(model(ids).logits, bare(ids).logits, rtol=1e-5, atol=1e-6)


def test_magnitudes_of_a_backbone_of_16_bits_have_32() -> None:
    method = attach(tiny("roberta").bfloat16())
    for layer in method.layers.values():
        norms = layer.base.weight.float().norm(dim=1)
        torch.testing.assert_close(layer.factors()["m"].data, norms, rtol=1e-6, atol=0)


def test_siblings_compute_what_each_layer_does_alone() -> None:
    model = tiny("roberta").eval()
    layers = attach(model).layers
    for layer in layers.values():
        nn.init.normal_(layer.B)
    attention = model.get_submodule("roberta.encoder.layer.0.attention.self")
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name in ("query", "key", "value"):
        attention.get_submodule(name).register_forward_hook(
            lambda _, args, y, name=name: seen.update({name: (args[0], y)})
        )
    model(torch.arange(5, 17).view(1, 12))
    for name, (x, y) in seen.items():
        alone = attention.get_submodule(name)(x.clone())
        torch.testing.assert_close(y, alone, rtol=1e-5, atol=1e-5)


def test_bf16_keeps_what_training_adds_to_the_magnitudes() -> None:
    layer = layer_of(64, 8, 2)
    layer.base.to(torch.bfloat16)
    x = torch.randn(2000, 64)

    def mean() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            y = layer(x)
        assert y.dtype == torch.bfloat16
        return (y.float() - layer.base.bias.float()).abs().mean(0)

    V = layer.base.weight.float() + layer.delta()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer.row_norms(), V.norm(dim=1), rtol=1e-5, atol=0)
    before = mean()
    layer.m.data *= 1.001  # a quarter of what 8 bits of mantissa can tell from 1
    torch.testing.assert_close(mean() / before, torch.full((8,), 1.001), rtol=2e-4, atol=0)


def test_a_row_of_zeros_stays_one() -> None:
    layer = layer_of(4, 2, 1)
    with torch.no_grad():
        for t in (layer.base.weight, layer.B, layer.m):
            t[0] = 0
    y = layer(torch.ones(1, 4))
    y.sum().backward()
    assert y[0, 0] == layer.base.bias[0]
    assert all(p.grad.isfinite().all() for p in layer.factors().values())


def test_magnitudes_are_counted_and_none_goes_without_components() -> None:
    matrices = (Matrix("a", 8, 8), Matrix("b", 8, 16))
    settings = settings_of("weight_decomposed")

    def plan(budget: str) -> tuple[tuple[int, ...], int]:
        found = WeightDecomposed.plan(settings, Budget.parse(budget), matrices, RunInfo(100, 3))
        return found.start, found.params(found.start)

    assert plan("r2") == ((2, 2), 2 * (16 + 24) + 8 + 16)
    assert plan("0.064k") == ((1, 1), 64)
    assert plan("0.103k") == ((3, 1), 96)  # 8 more would be one of b
    assert plan("0.104k") == ((2, 2), 104)
    with pytest.raises(
        ValueError, match=r"budget=63 .* of each matrix and .* beside it \(64 parameters\)"
    ):
        plan("0.063k")
    with pytest.raises(ValueError, match=r"at most r8 or 344 parameters fit"):
        plan("r9")
    assert plan("0.344k") == ((8, 8), 344)


def test_weight_decay_spares_the_magnitudes_alone() -> None:
    adapter = dora.attach(tiny("roberta"), method="weight_decomposed", budget="r2")
    groups = adapter.groups(lr=1e-2, weight_decay=0.5)
    decay = {p: group["weight_decay"] for group in groups for p in group["params"]}
    for layer in adapter.method.layers.values():
        assert [decay[p] for p in layer.factors().values()] == [0.5, 0.5, 0.0]


WORDS = ("method=weight_decomposed", "budget=20000", "max_steps=6", "lr=1e-2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a short run; returns its directory."""
    place = tmp_path_factory.mktemp("weight_decomposed")
    run(small(place, *WORDS))
    return only_run(place)


def test_pefts_file_holds_what_the_budget_bought(finished: Path, tmp_path: Path) -> None:
    export(finished, tmp_path / "out", Form())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "A component stores d_in + d_out parameters. Each matrix stores d_out norms" in card
    record = json.loads((finished / "run.json").read_text())
    params = record["params"]
    assert params["stored"] == params["in_peft_file"] == params["adapter_end"] <= 20_000
    config = json.loads((finished / "adapter" / "adapter_config.json").read_text())
    assert config["use_dora"] is True


@pytest.mark.parametrize("merge", [False, True])
def test_an_export_gives_the_recorded_logits(merge: bool, finished: Path, tmp_path: Path) -> None:
    export(finished, tmp_path / "out", Form(merge=merge))
    logits = dev_logits(tmp_path / "out", adapter=not merge)
    np.testing.assert_allclose(logits, npz.load(finished)["best/dev/logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("merge", [False, True])
def test_an_attached_adapter_is_saved_for_peft_and_merged(merge: bool, tmp_path: Path) -> None:
    from peft import PeftModel

    model, ids = tiny("roberta").eval(), torch.arange(5, 17).view(1, 12)
    adapter = dora.attach(model, method="weight_decomposed", budget="r2")
    for layer in adapter.method.layers.values():
        nn.init.normal_(layer.B, std=0.1)
        layer.factors()["m"].data *= 1.5
    before = model(ids).logits
    if merge:
        model = adapter.merge()
    else:
        adapter.save(tmp_path)
        model = PeftModel.from_pretrained(tiny("roberta"), tmp_path).eval()
    torch.testing.assert_close(model(ids).logits, before, rtol=1e-4, atol=1e-5)


def test_cora_reads_the_whole_change_of_such_a_run() -> None:
    layer = layer_of(8, 12, 2)
    A, B = layer.stored()
    held = {factor_name("w", "A"): A, factor_name("w", "B"): B, magnitude_name("w"): layer.m.data}

    class File:
        keys, get_tensor = held.keys, held.__getitem__

    found = _update(File(), "w", layer)
    assert found is not None
    V = layer.base.weight + B @ A
    want = V * (layer.m / V.norm(dim=1)).unsqueeze(1) - layer.base.weight
    torch.testing.assert_close(found[1] @ found[0], want.detach())
    assert _directions({name: tuple(t.shape) for name, t in held.items()}, Matrix("w", 8, 12)) == 8
