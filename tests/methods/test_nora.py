"""NoRA: cases worked by hand, the decomposition, and what a run leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import attach_method, config_of, linears, loop_of, settings_of, tiny, tokens
from dora.adapters.budget import Budget
from dora.adapters.singular import first_components
from dora.data.order import order
from dora.data.tokens import Tokens
from dora.methods.base import FirstRows, RunInfo
from dora.methods.nora import NestedLinear, NoRA
from dora.training.calibration import calibrator
from runs import cut, only_run, refused, run, same_files, small, small_words


def nested(W: list[list[float]], rank: int, outer: int) -> NestedLinear:
    """Returns a layer of this weight without bias, scale 1."""
    base = nn.Linear(len(W[0]), len(W), bias=False)
    base.weight.data = torch.tensor(W, dtype=torch.float32)
    layer = NestedLinear(base, rank, 1.0, 0.0, gated=False)
    layer.nest(outer)
    return layer


def attach(model: nn.Module, budget: str = "r2", **given: Any) -> NoRA:
    """Returns the method attached to the model, whose head is trained too."""
    return attach_method(model, "nora", budget, RunInfo(20, 3), **given)


def rows_of(model: nn.Module, method: NoRA, train: Tokens) -> FirstRows:
    """Returns what `begin` runs training rows with."""
    config = config_of(NoRA, seed=1, batch_size=8, batching="length")
    return calibrator(config, model, method.layers.values(), train, torch.device("cpu"))


def test_the_plain_form_worked_by_hand() -> None:
    layer = nested([[3, 0, 0], [0, 2, 0]], 1, 2)
    layer.set_outer(None)
    assert layer.outer_B.tolist() == [[3, 0], [0, 2]]
    assert layer.outer_A.tolist() == [[1, 0, 0], [0, 1, 0]]
    layer.A.data = torch.tensor([[1.0, -1.0]])
    layer.B.data = torch.tensor([[0.5], [0.25]])
    assert layer.delta().tolist() == [[1.5, -1.5, 0], [0.5, -0.5, 0]]
    A, B = layer.stored()
    assert (A.tolist(), B.tolist()) == ([[1, -1, 0]], [[1.5], [0.5]])
    y = layer(torch.tensor([[2.0, 1.0, 0.0]]))
    y.backward(torch.tensor([[1.0, 0.0]]))
    assert layer.B.grad.tolist() == [[3.0], [0.0]]
    assert layer.A.grad.tolist() == [[3.0, 1.5]]
    assert layer.outer_A.grad is None
    with torch.autocast("cpu", torch.bfloat16):  # products are rounded only where they meet x
        assert [t.dtype for t in layer._products()] == [torch.float32] * 2
    layer.scale = 4.0
    assert layer.stored()[1].tolist() == [[6.0], [2.0]]
    assert layer.delta().tolist() == [[6, -6, 0], [2, -2, 0]]


def test_the_activation_aware_form_worked_by_hand() -> None:
    layer = nested([[3, 0, 0], [0, 2, 0]], 1, 2)
    layer.set_outer(torch.tensor([1.0, 2.0, 1.0]))  # the order of the components turns
    torch.testing.assert_close(layer.outer_B, torch.tensor([[0.0, 3.0], [4.0, 0.0]]))
    torch.testing.assert_close(layer.outer_A, torch.tensor([[0.0, 0.5, 0.0], [1.0, 0.0, 0.0]]))
    torch.testing.assert_close(layer.outer_B @ layer.outer_A, layer.base.weight)
    layer.set_outer(torch.tensor([1.0, 0.0, 1.0]))  # an input that was always 0
    torch.testing.assert_close(layer.outer_A, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))


def test_a_direction_below_a_ten_thousandth_of_the_first_is_left_out() -> None:
    layer = nested([[1, 0, 0], [0, 2e-4, 0], [0, 0, 5e-5]], 1, 3)
    layer.set_outer(None)
    assert layer.outer_A.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("svd", ["activation", "plain"])
@pytest.mark.parametrize("architecture", ["roberta", "bert", "deberta-v2"])
def test_training_begins_at_the_backbone_and_changes_the_inner_pair_alone(
    architecture: str, svd: str
) -> None:
    model = tiny(architecture)
    batch = {"input_ids": torch.arange(5, 25).view(2, 10)}
    before = model.eval()(**batch).logits
    method = attach(model, svd=svd)
    train = tokens(40)
    state = torch.get_rng_state()
    method.begin(rows_of(model, method, train))
    assert torch.equal(torch.get_rng_state(), state)  # no stream of training's was drawn from
    torch.testing.assert_close(model.eval()(**batch).logits, before, rtol=1e-5, atol=1e-6)
    frozen = {name: t.clone() for name, t in method.frozen().items()}
    assert all(t.any() for t in frozen.values())
    loop = loop_of(model, method, train, 20, lr=1e-2, batch_size=8, weight_decay=0.1)
    for step in range(1, 6):
        loop.train_step(step)
    assert all(torch.equal(t, frozen[name]) for name, t in method.frozen().items())
    assert all(layer.delta().any() for layer in method.layers.values())
    decays = {
        group["weight_decay"]
        for group in loop.stepper.optimizer.param_groups
        for p in group["params"]
        if any(p is q for layer in method.layers.values() for q in layer.factors().values())
    }
    assert decays == {0.0}


def test_inputs_are_those_of_the_first_training_rows_without_padding() -> None:
    model, train = tiny("roberta"), tokens(40)
    method = attach(model)
    forward = rows_of(model, method, train)
    layer = next(iter(method.layers.values()))
    inside: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, args: inside.append(args[0]))
    model.train()
    forward(12)
    hook.remove()
    assert not any(module.training for module in model.modules())  # nothing is dropped
    rows = np.concatenate(order(1, 0, train.lengths, 8, "length"))[:12]
    assert sum(x.shape[0] for x in inside) == 12
    # As many vectors as the rows have tokens.
    assert sum(x.shape[0] * x.shape[1] for x in inside) == train.lengths[rows].sum()


def test_the_outer_pair_weighs_columns_by_the_inputs_root_mean_square() -> None:
    model, train = tiny("roberta"), tokens(40)
    method = attach(model, outer_rank=4)
    layer = next(iter(method.layers.values()))
    assert isinstance(layer, NestedLinear)
    inside: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, args: inside.append(args[0]))
    forward = rows_of(model, method, train)
    method.begin(forward)
    hook.remove()
    x = torch.cat([each.reshape(-1, 32) for each in inside])
    S = x.pow(2).mean(0).sqrt()
    U, sigma, Vh = torch.linalg.svd((layer.base.weight * S).double())
    want = (U[:, :4] * sigma[:4] @ Vh[:4] / S).float()
    torch.testing.assert_close(layer.outer_B @ layer.outer_A, want, rtol=1e-4, atol=1e-5)
    # The mean is over tokens: over rows, the product would be as it is, and B_o larger.
    torch.testing.assert_close(layer.outer_B.norm(dim=0), sigma[:4].float(), rtol=1e-4, atol=1e-5)


def test_the_inputs_are_those_of_256_rows() -> None:
    asked: list[int] = []
    attach(tiny("roberta")).begin(asked.append)
    assert asked == [256]


def test_first_components_equal_a_decomposition() -> None:
    torch.manual_seed(0)
    for shape in ((6, 9), (9, 6), (7, 7)):
        M = torch.randn(shape)
        U, sigma, Vt = first_components(M, 4)
        want = torch.linalg.svd(M.double())
        torch.testing.assert_close(sigma, want.S[:4], rtol=1e-10, atol=1e-12)
        best = want.U[:, :4] * want.S[:4] @ want.Vh[:4]
        torch.testing.assert_close(U * sigma @ Vt, best, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(U.t() @ U, torch.eye(4).double(), rtol=0, atol=1e-10)
        assert (Vt.gather(1, Vt.abs().argmax(1, keepdim=True)) > 0).all()
    # A weight of rank 1 has components whose singular value is 0.
    U, sigma, Vt = first_components(torch.ones(4, 5), 3)
    torch.testing.assert_close(sigma, torch.tensor([20**0.5, 0, 0]).double(), rtol=0, atol=1e-7)
    assert torch.isfinite(U).all()
    torch.testing.assert_close(Vt @ Vt.t(), torch.eye(3).double(), rtol=0, atol=1e-10)


def test_a_matrix_smaller_than_the_outer_rank_has_all_of_its_components() -> None:
    method = attach(tiny("roberta"))
    assert {len(q.outer_A) for q in method.layers.values()} == {32}  # not 64
    assert {len(q.outer_A) for q in attach(tiny("roberta"), outer_rank=5).layers.values()} == {5}


def test_every_layer_has_the_scale_of_the_settings_whatever_its_rank() -> None:
    method = attach(tiny("roberta"), "r5", outer_rank=5, scale=3.0)  # an inner rank may be as large
    assert {(layer.rank, layer.scale) for layer in method.layers.values()} == {(5, 3.0)}


def test_a_matrix_without_a_component_is_not_decomposed() -> None:
    method = attach(tiny("roberta"), "0.2k", svd="plain")
    method.begin(lambda n: pytest.fail("no rows are needed"))
    layers = method.layers.values()
    assert {layer.rank for layer in layers} == {0, 1}
    assert all(layer.outer_A.any() == bool(layer.rank) for layer in layers)


def test_every_mistake_is_named_before_a_model_is_loaded(tmp_path: Path) -> None:
    words = small_words(tmp_path, "method=nora", "method.svd=thin", "method.outer_rank=3")
    problems = refused(*words, "init_from=elsewhere")
    assert problems[0].startswith("method.svd=thin must be one of activation, plain")
    assert problems[1].startswith("init_from=elsewhere: method=nora cannot begin with the tensors")
    assert problems[2].startswith("budget=r8 makes an inner rank of 8, which must not exceed")


def test_no_message_offers_a_budget_above_the_outer_rank() -> None:
    matrices = linears(tiny("roberta"))
    for outer_rank, said in ((16, "an inner rank of 33, which must not"), (64, "at most r32")):
        settings = settings_of("nora", outer_rank=outer_rank)
        with pytest.raises(ValueError, match=f"budget=r33 .*{said}"):
            NoRA.plan(settings, Budget.parse("r33"), matrices, RunInfo(20, 3))


@pytest.mark.parametrize(
    ("budget", "way"), [("r20", "raise that, or lower the budget"), ("r33", "lower the budget")]
)
def test_a_larger_outer_rank_is_offered_only_where_it_helps(budget: str, way: str) -> None:
    with pytest.raises(ValueError, match=f"method.outer_rank=16: {way}$"):
        NoRA.plan(
            settings_of("nora", outer_rank=16),
            Budget.parse(budget),
            linears(tiny("roberta")),
            RunInfo(20, 3),
        )


WORDS = ("method=nora", "budget=r3", "lr=1e-2", "method.outer_rank=16")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a short run; returns its directory."""
    place = tmp_path_factory.mktemp("nora")
    run(small(place, *WORDS))
    return only_run(place)


@pytest.mark.parametrize(
    "step", [10, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 17))]
)
def test_a_run_cut_at_any_point_ends_as_one_left_alone(
    step: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(tmp_path, step, monkeypatch, *WORDS)
    # The outer pair comes from the checkpoint: another machine's decomposition may differ.
    monkeypatch.setattr(NoRA, "begin", lambda *_: pytest.fail("decomposed again"))
    assert run(small(tmp_path, *WORDS))["resumed_from"] == [step]
    same_files(finished, only_run(tmp_path))


def test_the_record_tells_exported_from_trained(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    params = record["params"]
    layers = 12
    assert params["trained_at_once"] == params["trained_in_all"] == layers * 2 * 3 * 16
    # What PEFT's file holds is LoRA's r3, and this is what the budget limits.
    assert params["in_peft_file"] == params["adapter_end"]
    # The file of the run itself holds the frozen pair, too.
    assert params["stored"] > params["adapter_end"]
    assert set(record["ranks"]["end"].values()) == {3}
