"""MELoRA: block-diagonal updates beside dense matrices, LoRA, PEFT, and cases worked by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exported import dev_logits
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from conftest import attach_method, linears, loop_of, settings_of, tiny, tokens
from dora.adapters.budget import Budget, Matrix
from dora.configuration.method_choice import packaged
from dora.data import npz
from dora.errors import UserError
from dora.methods.base import Method, RunInfo
from dora.methods.melora import BlockLinear, MELoRA
from dora.preparing.prepare import prepare
from dora.sharing.exporting import export
from dora.sharing.form import Form
from runs import only_run, refused, run, small, small_words

# PEFT reads an attribute that Transformers deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


def layer_of(d_in: int, d_out: int, rank: int, blocks: int, scale: float) -> BlockLinear:
    """Returns a layer whose A and B are drawn from N(0, 1)."""
    torch.manual_seed(0)
    layer = BlockLinear(nn.Linear(d_in, d_out), rank, scale, 0.0, False)
    layer.blocks = blocks
    for p in layer.factors().values():
        nn.init.normal_(p)
    return layer


def attach(model: nn.Module, name: str = "melora", budget: str = "r2", **given: Any) -> Method:
    """Returns a method attached to the model, whose head is trained too."""
    return attach_method(model, name, budget, **given)


def test_the_published_case_of_two_blocks() -> None:
    model = nn.ModuleDict({"w": nn.Linear(4, 2, bias=False)})
    settings = settings_of("melora", alpha=2.0, blocks=2)
    plan = MELoRA.plan(settings, Budget.parse("r1"), (Matrix("w", 4, 2),), RunInfo(100, 3))
    layer = MELoRA(settings, model, plan, RunInfo(100, 3)).layers["w"]
    assert layer.scale == 2
    nn.init.zeros_(layer.base.weight)
    layer.A.data = torch.tensor([[1.0, 2.0, -1.0, 3.0]])
    layer.B.data = torch.tensor([[2.0], [-1.0]])
    y = layer(torch.ones(1, 4))
    y.sum().backward()
    assert y.tolist() == [[12.0, -4.0]]
    assert layer.delta().tolist() == [[4.0, 8.0, 0.0, 0.0], [0.0, 0.0, 2.0, -6.0]]
    assert torch.linalg.matrix_rank(layer.delta()) == 2
    assert layer.A.grad.tolist() == [[4.0, 4.0, -2.0, -2.0]]
    assert layer.B.grad.tolist() == [[6.0], [4.0]]


def test_the_update_is_the_masked_product_of_the_compact_factors() -> None:
    n, r, d_in, d_out = 4, 3, 8, 12
    layer = layer_of(d_in, d_out, r, n, 0.5)
    rows, columns = torch.arange(d_out) * n // d_out, torch.arange(d_in) * n // d_in
    mask = rows.unsqueeze(1) == columns
    A, B = layer.A.detach(), layer.B.detach()
    torch.testing.assert_close(layer.delta(), 0.5 * mask * (B @ A), rtol=0, atol=1e-6)
    assert torch.linalg.matrix_rank(layer.delta()) == 8  # r in each block, but 2 columns wide
    assert torch.equal(layer.delta() != 0, mask)


# 3 rows go beside the weight, 500 are merged into it; with dropout all go beside it.
@pytest.mark.parametrize(("rows", "dropout"), [(3, 0.0), (500, 0.0), (3, 0.4)])
@pytest.mark.usefixtures("float64")
def test_outputs_and_gradients_are_those_of_each_block_by_hand(rows: int, dropout: float) -> None:
    n, r, d_in, d_out, s = 4, 3, 8, 12, 0.5
    layer = layer_of(d_in, d_out, r, n, s)
    layer.dropout = dropout
    x = torch.randn(rows, d_in).requires_grad_()
    dy = torch.randn(rows, d_out)
    torch.manual_seed(1)
    y = layer(x)
    y.backward(dy)
    inside = x.detach()
    if dropout:
        # Equal draws: a plain layer whose base is 0, B and A the identity, shows what is dropped.
        seen = BlockLinear(nn.Linear(d_in, d_in, bias=False), d_in, 1.0, dropout, False)
        for t in (seen.A.data, seen.B.data):
            t.copy_(torch.eye(d_in))
        nn.init.zeros_(seen.base.weight)
        torch.manual_seed(1)
        inside = seen(inside).detach()
        assert (inside == 0).any()
    want = F.linear(x.detach(), layer.base.weight, layer.base.bias)
    dx = dy @ layer.base.weight
    dA, dB = torch.zeros_like(layer.A), torch.zeros_like(layer.B)
    scale = torch.where(inside == 0, 0.0, inside / x.detach())  # D: 0 or 1 / (1 − p)
    for k in range(n):
        i, o = (
            slice(k * d_in // n, (k + 1) * d_in // n),
            slice(k * d_out // n, (k + 1) * d_out // n),
        )
        A, B = layer.A.detach()[:, i], layer.B.detach()[o]
        want[:, o] += s * inside[:, i] @ A.t() @ B.t()
        dA[:, i] = s * B.t() @ dy[:, o].t() @ inside[:, i]  # s B_kᵀ dy_k x_kᵀ
        dB[o] = s * dy[:, o].t() @ inside[:, i] @ A.t()
        dx[:, i] += s * (dy[:, o] @ B @ A) * scale[:, i]
    for got, wanted in ((y, want), (layer.A.grad, dA), (layer.B.grad, dB), (x.grad, dx)):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def after(model: nn.Module, method: Method, steps: int, **given: Any) -> dict[str, Tensor]:
    """Returns the trained tensors after so many steps of a run's loop."""
    loop = loop_of(model, method, tokens(32), steps + 1, lr=1e-2, batch_size=8, **given)
    for step in range(1, steps + 1):
        loop.train_step(step)
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("budget", ["r3", "2k"])
def test_one_block_is_lora_bit_for_bit(dropout: float, budget: str) -> None:
    ends = []
    for name, own in (("lora", {}), ("melora", {"blocks": 1})):
        model = tiny("roberta")
        method = attach(model, name, budget, dropout=dropout, **own)
        ends.append(after(model, method, 4))
        stored = {n: layer.stored() for n, layer in method.layers.items()}
        ends[-1] |= {f"{n}.{i}": t for n, pair in stored.items() for i, t in enumerate(pair)}
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_two_micro_batches_train_blocks_as_one_batch_does() -> None:
    ends = []
    for parts in (1, 2):
        model = tiny("roberta")
        ends.append(after(model, attach(model), 3, grad_accum=parts))
    for name, p in ends[0].items():
        torch.testing.assert_close(p, ends[1][name], rtol=0, atol=1e-5)


def test_a_starts_as_wide_as_loras_on_a_block_and_b_at_zero() -> None:
    for layer in attach(tiny("roberta", hidden=64), budget="r8").layers.values():
        bound = math.sqrt(4 / layer.base.in_features)
        assert 0.97 * bound < layer.A.abs().max() <= bound
        assert layer.A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert layer.B.eq(0).all()
        assert layer.scale == 16 / 8  # over a block's rank


@pytest.mark.parametrize("params", [96, 500, 4_000, 6_000])
def test_blocks_cost_what_lora_costs_whatever_their_number(params: int) -> None:
    model = tiny("deberta-v2")
    plans = [
        kind.plan(settings, Budget.parse(f"{params / 1000}k"), linears(model), RunInfo(100, 3))
        for kind, settings in (
            (packaged("lora").kind, settings_of("lora")),
            (MELoRA, settings_of("melora", blocks=2)),
            (MELoRA, settings_of("melora")),
        )
    ]
    assert plans[0] == plans[1] == plans[2]
    method = attach(model, budget=f"{params / 1000}k")
    held = [p for layer in method.layers.values() for p in layer.factors().values()]
    assert sum(p.numel() for p in held) == plans[2].params(plans[2].start) <= params


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(1, 12)] * 2), min_size=1, max_size=12), st.data())
def test_one_block_is_planned_as_lora_is(sizes: list[tuple[int, int]], data: st.DataObject) -> None:
    matrices = tuple(Matrix(str(i), *size) for i, size in enumerate(sizes))
    most = min(m.full_rank for m in matrices) * sum(m.cost for m in matrices)
    budget = Budget(params=data.draw(st.integers(min(m.cost for m in matrices), most)))
    lora = packaged("lora").kind.plan(settings_of("lora"), budget, matrices, RunInfo(100, 3))
    assert MELoRA.plan(settings_of("melora", blocks=1), budget, matrices, RunInfo(100, 3)) == lora
    assert all(r <= m.full_rank for r, m in zip(lora.start, matrices, strict=True))


@pytest.mark.parametrize(("d_in", "d_out"), [(4, 6), (6, 4)])
def test_blocks_must_divide_both_widths_of_a_matrix(d_in: int, d_out: int) -> None:
    settings, run = settings_of("melora", blocks=4), RunInfo(100, 3)
    with pytest.raises(ValueError, match=r"\(4, 6\); these do: 1, 2$"):
        MELoRA.plan(settings, Budget.parse("r1"), (Matrix("w", d_in, d_out),), run)


@pytest.mark.parametrize("blocks", [0, 3, 64])
def test_blocks_that_do_not_divide_a_width_are_refused_with_those_that_do(blocks: int) -> None:
    with pytest.raises(
        ValueError,
        match=rf"method\.blocks={blocks} must divide every width of the adapted matrices "
        r"\(32, 64\); these do: 1, 2, 4, 8, 16, 32$",
    ):
        MELoRA.plan(
            settings_of("melora", blocks=blocks),
            Budget.parse("r2"),
            linears(tiny("roberta")),
            RunInfo(100, 3),
        )


def test_every_mistake_is_named_before_a_model_is_loaded(tmp_path: Path) -> None:
    words = small_words(tmp_path, "method=melora", "method.blocks=5", "method.alpha=0", "budget=r2")
    problems = refused(*words)
    assert [text.split("=")[0] for text in problems] == ["method.alpha", "method.blocks"]


def test_a_budget_of_more_than_the_blocks_hold_is_refused() -> None:
    matrices = linears(tiny("roberta"))
    settings = settings_of("melora")
    assert MELoRA.plan(settings, Budget.parse("r8"), matrices, RunInfo(100, 3)).start == (8,) * 12
    with pytest.raises(ValueError, match=r"budget=r9 is larger than this model.*at most r8"):
        MELoRA.plan(settings, Budget.parse("r9"), matrices, RunInfo(100, 3))


# MiniLM's ratios in 96 blocks: those of attention are 2 x 2, where a third component adds nothing.
def test_no_block_gets_more_components_than_its_full_rank() -> None:
    shapes = [*[(192, 192)] * 4, (192, 768), (768, 192)] * 2
    matrices = tuple(Matrix(str(i), *shape) for i, shape in enumerate(shapes))
    full = sum(2 * m.cost for m in matrices)
    for params in [*range(full - 1_000, full, 7), full - 1, full]:
        budget = Budget(params=params)
        plan = MELoRA.plan(settings_of("melora", blocks=96), budget, matrices, RunInfo(100, 3))
        assert max(plan.start) == 2
        room = [m.cost for m, r in zip(matrices, plan.start, strict=True) if r < 2]
        assert 0 <= params - plan.start_params < min(room, default=1)


WORDS = ("method=melora", "budget=5000", "max_steps=6", "lr=1e-2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a short run; returns its directory."""
    place = tmp_path_factory.mktemp("melora")
    run(small(place, *WORDS))
    return only_run(place)


def test_the_record_has_the_stored_parameters_and_those_in_pefts_file(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    params, ranks = record["params"], record["ranks"]
    assert params["stored"] == params["adapter_end"] == params["trained_at_once"] <= 5_000
    assert params["in_peft_file"] == 4 * params["stored"]
    assert ranks["in_peft_file"] == {name: 4 * r for name, r in ranks["end"].items()}


@pytest.mark.parametrize("merge", [False, True])
def test_an_export_gives_the_recorded_logits(merge: bool, finished: Path, tmp_path: Path) -> None:
    export(finished, tmp_path / "out", Form(merge=merge))
    in_file = json.loads((finished / "run.json").read_text())["params"]["in_peft_file"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| adapter in PEFT's format        | {in_file:,} " in card
    logits = dev_logits(tmp_path / "out", adapter=not merge)
    np.testing.assert_allclose(logits, npz.load(finished)["best/dev/logits"], rtol=0, atol=1e-5)


def test_a_run_starts_from_another_of_equal_blocks_alone(finished: Path, tmp_path: Path) -> None:
    words = (*WORDS, "task=rte", f"init_from={finished}", "max_steps=1", "warmup=0", "lr=1e-9")
    run(small(tmp_path, *words))
    before = load_file(finished / "best.safetensors")
    after = load_file(only_run(tmp_path) / "best.safetensors")
    factors = [name for name in before if name.rpartition(".")[2] in ("A", "B")]
    assert factors
    for name in factors:  # one step of 1e-9: what it began with
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-7)
    with pytest.raises(UserError, match=r"has another method\.blocks \(4\); this run has 2"):
        prepare(small(tmp_path, *words, "method.blocks=2"))
