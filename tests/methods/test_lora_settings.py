"""rsLoRA, LoRA+ and PiSSA, which are settings of LoRA, beside PEFT's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import (
    ARCHITECTURES,
    attach_method,
    backward_and_step,
    batches,
    linears,
    loop_of,
    settings_of,
    tiny,
    tokens,
    trained,
)
from dora.adapters.budget import Budget, Matrix
from dora.adapters.plan import equal_ranks
from dora.backbones.backbone import ASSETS
from dora.configuration.config import Config
from dora.configuration.groups import TaskConfig
from dora.configuration.method_choice import MethodChoice
from dora.data import npz
from dora.data.sources import read_dir
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.methods.base import RunInfo
from dora.methods.groups import parameter_groups
from dora.methods.lora import LoRA
from dora.preparing.prepare import prepare
from dora.sharing.exporting import export
from dora.sharing.form import Form
from runs import cut, only_run, run, same_files, small, small_glue

# PEFT reads an attribute that Transformers deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


def attach(model: nn.Module, budget: str = "r4", **given: Any) -> LoRA:
    """Returns LoRA with these settings, attached to the model, whose head is trained too."""
    return attach_method(model, "lora", budget, **given)


def pefts(model: nn.Module, method: LoRA, **given: Any) -> PeftModel:
    """Returns PEFT's LoRA of rank 4 on the matrices of `method`."""
    config = LoraConfig(r=4, lora_dropout=0.0, target_modules=list(method.layers), **given)
    return get_peft_model(model, config)


def pefts_layer(peft: PeftModel, name: str) -> Any:
    """Returns PEFT's layer at one of our matrices."""
    return peft.get_submodule(f"base_model.model.{name}")


@pytest.mark.parametrize(("scaling", "scale"), [("standard", 2), ("rslora", 4)])
def test_the_scale_is_pefts(scaling: str, scale: float) -> None:
    ours, theirs, batch = tiny("roberta"), tiny("roberta"), batches(1)[0]
    method = attach(ours, alpha=8.0, scaling=scaling)
    assert {layer.scale for layer in method.layers.values()} == {scale}
    peft = pefts(theirs, method, lora_alpha=8, use_rslora=scaling == "rslora")
    for name, layer in method.layers.items():
        nn.init.normal_(layer.B, std=0.1)
        held = pefts_layer(peft, name)
        assert held.scaling["default"] == scale
        held.lora_A["default"].weight.data.copy_(layer.A.detach())
        held.lora_B["default"].weight.data.copy_(layer.B.detach())
    torch.testing.assert_close(ours(**batch).logits, peft(**batch).logits, rtol=1e-5, atol=1e-6)


def test_under_unequal_ranks_rslora_takes_the_root_of_the_average() -> None:
    method = attach(tiny("roberta"), "4k", scaling="rslora")
    ranks = [layer.rank for layer in method.layers.values()]
    assert len(set(ranks)) > 1
    (scale,) = {layer.scale for layer in method.layers.values()}
    assert scale == pytest.approx(16 / (sum(ranks) / 12) ** 0.5, rel=1e-12)


def groups_of(model: nn.Module, method: LoRA, **given: Any) -> list[dict[str, Any]]:
    """Returns the optimizer's groups of a run at the rate 1e-4, whose head has 5e-5."""
    config = Config(
        task=TaskConfig("sst2"), method=MethodChoice("lora", LoRA, None), head_lr=5e-5, **given
    )
    head = {n for n, _ in model.named_parameters() if not n.startswith("roberta.")}
    c = config
    return parameter_groups(
        model, head, 1e-4, c.head_lr, c.weight_decay, c.decay_all, method.parameter_groups()
    )


def test_lora_plus_has_the_published_rates_on_b_alone() -> None:
    model = tiny("roberta")
    groups = groups_of(model, attach(model, lr_ratio=16.0), weight_decay=0.1)
    names = {p: n for n, p in model.named_parameters()}
    rates: dict[str, set[float]] = {}
    for group in groups:
        for p in group["params"]:
            kind = names[p].rpartition(".")[2] if ".layer." in names[p] else "head"
            rates.setdefault(kind, set()).add(round(group["peak"], 12))
    # PEFT's would give the head's bias B's rate, and leave the decay out.
    assert rates == {"A": {1e-4}, "B": {1.6e-3}, "head": {5e-5}}
    decays = {names[p]: group["weight_decay"] for group in groups for p in group["params"]}
    assert {v for n, v in decays.items() if not n.endswith("bias")} == {0.1}


@pytest.mark.usefixtures("float64")
def test_five_steps_of_lora_plus_give_the_factors_of_pefts_optimizer() -> None:
    ours, theirs = tiny("roberta"), tiny("roberta")
    method = attach(ours, lr_ratio=16.0, alpha=16.0)
    peft = pefts(theirs, method, lora_alpha=16)
    for name, layer in method.layers.items():
        pefts_layer(peft, name).lora_A["default"].weight.data.copy_(layer.A.detach())
    for p in ours.classifier.parameters():  # PEFT's optimizer treats the head in another way
        p.requires_grad_(False)
    mine = torch.optim.AdamW(groups_of(ours, method, weight_decay=0.0), lr=1e-4)
    for group in mine.param_groups:
        group["lr"] = group["peak"]
    other = create_loraplus_optimizer(peft, torch.optim.AdamW, lr=1e-4, loraplus_lr_ratio=16.0)
    for batch in batches(5):
        for model, optimizer in ((ours, mine), (peft, other)):
            backward_and_step(model(**batch).loss, optimizer)
            optimizer.zero_grad()
    for name, layer in method.layers.items():
        held = pefts_layer(peft, name)
        assert layer.B.abs().max() > 1e-3  # five steps at B's rate
        for factor, theirs_too in ((layer.A, held.lora_A), (layer.B, held.lora_B)):
            torch.testing.assert_close(factor, theirs_too["default"].weight, rtol=1e-8, atol=1e-10)


def test_plain_lora_leaves_the_optimizer_one_group() -> None:
    assert attach(tiny("roberta")).parameter_groups() == ()


class One(nn.Module):
    """A model of one linear, for cases worked by hand."""

    def __init__(self, weight: list[list[float]]) -> None:
        super().__init__()
        d_out, d_in = len(weight), len(weight[0])
        self.w = nn.Linear(d_in, d_out)
        self.w.weight.data = torch.tensor(weight)


def test_pissa_of_a_diagonal_weight_is_the_published_one() -> None:
    model = One([[3.0, 0.0], [0.0, 1.0]])
    settings = settings_of("lora", init="pissa", alpha=2.0)
    plan = LoRA.plan(settings, Budget.parse("r1"), (Matrix("w", 2, 2),), RunInfo(100, 3))
    layer = LoRA(settings, model, plan, RunInfo(100, 3)).layers["w"]
    assert layer.scale == 2
    want = torch.tensor([1.224745, 0.0])
    torch.testing.assert_close(layer.A[0].detach(), want, rtol=0, atol=1e-6)
    torch.testing.assert_close(layer.B[:, 0].detach(), want, rtol=0, atol=1e-6)
    rest = layer.base.weight + layer.kept_B @ layer.kept_A
    torch.testing.assert_close(rest, torch.diag(torch.tensor([0.0, 1.0])), rtol=0, atol=1e-6)


def test_pissa_is_pefts_in_start_residual_and_five_steps() -> None:
    ours, theirs, plain = (tiny("roberta") for _ in range(3))
    method = attach(ours, alpha=8.0, init="pissa")
    peft = pefts(theirs, method, lora_alpha=8, init_lora_weights="pissa")
    for name, layer in method.layers.items():
        held = pefts_layer(peft, name)
        A, B = held.lora_A["default"].weight, held.lora_B["default"].weight
        # PEFT leaves the sign of each component as LAPACK has it.
        sign = (layer.A * A).sum(1).sign()
        torch.testing.assert_close(layer.A, sign.unsqueeze(1) * A, rtol=0, atol=2e-5)
        torch.testing.assert_close(layer.B, B * sign, rtol=0, atol=2e-5)
        rest = layer.base.weight + layer.kept_B @ layer.kept_A
        torch.testing.assert_close(rest, held.base_layer.weight, rtol=0, atol=2e-6)
        A.data.copy_(layer.A.detach())  # one sign, so that five steps can be compared
        B.data.copy_(layer.B.detach())
    for p in theirs.classifier.parameters():
        p.requires_grad_(True)  # PEFT freezes everything but its own tensors
    start = batches(1)[0]
    torch.testing.assert_close(ours(**start).logits, plain(**start).logits, rtol=0, atol=1e-5)
    losses: list[list[float]] = []
    for model in (ours, peft):
        optimizer = torch.optim.AdamW(trained(model), lr=1e-2, weight_decay=0.0)
        losses.append([])
        for batch in batches(5):
            losses[-1].append(backward_and_step(model(**batch).loss, optimizer))
            optimizer.zero_grad()
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert max(losses[0]) - min(losses[0]) > 0.05  # it did train


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_pissa_changes_neither_the_weight_nor_the_start_values(architecture: str) -> None:
    model = tiny(architecture)
    method = attach(model, init="pissa")
    fixed = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    fixed |= {n: t.clone() for n, t in method.frozen().items()}
    loop = loop_of(model, method, tokens(32), 4, batch_size=8, weight_decay=0.1)
    of_factors = {p for layer in method.layers.values() for p in layer.factors().values()}
    decays = [
        group["weight_decay"]
        for group in loop.stepper.optimizer.param_groups
        if of_factors & set(group["params"])
    ]
    assert set(decays) == {0.0}
    before = {p: p.detach().clone() for p in of_factors}
    for step in range(1, 4):
        loop.train_step(step)
    now = {**dict(model.named_parameters()), **method.frozen()}
    assert all(torch.equal(now[name], tensor) for name, tensor in fixed.items())
    assert all(not torch.equal(p, start) for p, start in before.items())


def test_pissa_starts_alike_every_time_with_the_largest_entry_of_v_positive() -> None:
    one, two = (attach(tiny("roberta"), init="pissa") for _ in range(2))
    for a, b in zip(one.layers.values(), two.layers.values(), strict=True):
        assert torch.equal(a.A, b.A)
        assert torch.equal(a.B, b.B)
        assert (a.A.gather(1, a.A.abs().argmax(1, keepdim=True)) > 0).all()


def test_dropout_leaves_the_start_values_their_whole_input() -> None:
    layer = next(iter(attach(tiny("roberta"), init="pissa", dropout=0.5).layers.values()))
    nn.init.zeros_(layer.B)  # nothing of the trained factors is left
    x = torch.randn(3, 32)
    rest = layer.base.weight + layer.kept_B @ layer.kept_A
    want = torch.nn.functional.linear(x, rest, layer.base.bias)
    torch.testing.assert_close(layer.train()(x), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("params", [192, 500, 3_584, 4_000, 10_000])
def test_a_number_of_parameters_binds_what_pissa_stores(params: int) -> None:
    model = tiny("roberta")
    budget, matrices = Budget.parse(f"{params / 1000}k"), linears(model)
    plan = LoRA.plan(settings_of("lora", init="pissa"), budget, matrices, RunInfo(100, 3))
    method = attach(model, f"{params / 1000}k", init="pissa")
    held = [t for layer in method.layers.values() for t in layer.factors().values()]
    kept = list(method.frozen().values())
    numbers = [sum(t.numel() for t in tensors) for tensors in (held, kept)]
    # A matrix without a component keeps nothing.
    assert numbers[0] == numbers[1]
    assert plan.params(plan.start) == sum(numbers) <= params
    assert params - sum(numbers) < 2 * min(m.d_in + m.d_out for m in matrices)


def test_an_average_rank_is_of_the_trained_components_as_in_papers() -> None:
    matrices = linears(tiny("roberta"))
    plan = LoRA.plan(
        settings_of("lora", init="pissa"), Budget.parse("r4"), matrices, RunInfo(100, 3)
    )
    assert plan.start == equal_ranks(Budget.parse("r4"), matrices) == (4,) * 12
    assert plan.params(plan.start) == 2 * 4 * sum(m.d_in + m.d_out for m in matrices)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scaling": "root"}, "method.scaling=root must be one of standard, rslora"),
        ({"init": "svd"}, "method.init=svd must be one of kaiming, pissa"),
        ({"lr_ratio": 0.0}, "method.lr_ratio=0.0 must lie in [1e-06, inf)"),
    ],
)
def test_a_value_out_of_range_is_named_with_the_rule(given: dict[str, Any], said: str) -> None:
    (problem,) = settings_of("lora", **given).problems(None)
    assert problem.startswith(said)


PISSA = ("method=lora", "method.init=pissa", "budget=5000", "max_steps=6", "lr=1e-2")


@pytest.fixture(scope="module")
def pissa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a short run that starts at singular components; returns its directory."""
    place = tmp_path_factory.mktemp("pissa")
    run(small(place, *PISSA))
    return only_run(place)


def test_the_record_shows_what_pissa_stores_beside_what_it_trains(pissa: Path) -> None:
    record = json.loads((pissa / "run.json").read_text())
    params, ranks = record["params"], record["ranks"]
    assert params["stored"] == params["adapter_end"] == params["in_peft_file"] <= 5_000
    assert params["stored"] == 2 * params["trained_at_once"] == 2 * params["trained_in_all"]
    assert ranks["start"] == ranks["end"]
    assert ranks["in_peft_file"] == {name: 2 * r for name, r in ranks["end"].items()}


def test_peft_reads_pissa_against_the_backbone_as_it_was_loaded(
    pissa: Path, tmp_path: Path
) -> None:
    export(pissa, tmp_path / "out", Form())
    card = (tmp_path / "out/README.md").read_text()
    assert "A component stores 2 (d_in + d_out) parameters: PEFT's file holds 2" in card
    base = ASSETS / "tiny_roberta"
    model = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32)
    peft = PeftModel.from_pretrained(model, tmp_path / "out").eval()
    rows = read_dir(TASKS["wnli"], small_glue())["dev"]
    batch = AutoTokenizer.from_pretrained(base)(
        rows.first, rows.second, return_tensors="pt", padding=True, truncation=True, max_length=48
    )
    with torch.no_grad():
        logits = peft(**batch).logits.numpy()
    np.testing.assert_allclose(logits, npz.load(pissa)["best/dev/logits"], rtol=0, atol=1e-5)


def test_a_resumed_pissa_run_equals_one_left_alone(
    pissa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(tmp_path, 3, monkeypatch, *PISSA)
    run(small(tmp_path, *PISSA))
    same_files(pissa, only_run(tmp_path))


def test_a_pissa_run_goes_on_from_another_with_its_start_values(
    pissa: Path, tmp_path: Path
) -> None:
    words = (*PISSA, "task=rte", f"init_from={pissa}")
    record = run(small(tmp_path, *words))
    before = load_file(pissa / "best.safetensors")
    after = load_file(only_run(tmp_path) / "best.safetensors")
    # Three matrices have a component.
    kept = [name for name, tensor in before.items() if "kept_" in name and tensor.numel()]
    assert len(kept) == 2 * 3
    assert all(torch.equal(before[name], after[name]) for name in kept)
    factor = kept[0].replace("kept_", "")
    assert before[factor].shape == after[factor].shape
    assert not torch.equal(before[factor], after[factor])
    source = json.loads((pissa / "run.json").read_text())
    assert record["ranks"] == source["ranks"]
    assert record["scale"] == source["scale"]


def test_a_run_that_starts_in_another_way_is_no_start(pissa: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"another method\.init \(pissa\); this run has kaiming"):
        prepare(small(tmp_path, "method=lora", "budget=9000", f"init_from={pissa}"))


def test_fewer_components_than_matrices_are_spread_unless_the_old_way_is_asked_for(
    tmp_path: Path,
) -> None:
    # A component of an attention matrix takes 384 parameters, of a feed-forward one 960.
    spread, first, whole = (
        prepare(small(tmp_path, "method=lora", *words))
        for words in (("budget=3500",), ("budget=3500", "method.deal=first"), ("budget=r1",))
    )
    assert spread.plan is not None
    assert first.plan is not None
    assert first.plan.start == (1,) * 6 + (0,) * 6  # two layers
    assert spread.plan.start == (1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 1, 0)
    # Runs that the first version dealt otherwise keep their directories, and these get others.
    assert "ranks" in spread.fingerprints
    assert spread.folder != first.folder
    assert "ranks" not in whole.fingerprints
