"""Changes to a run's layers, and the result that they leave, on layers small enough to follow."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from conftest import batches, linears, tiny, train_head_only
from dora.adapters import components, lowrank, result
from dora.adapters.budget import Budget, Matrix
from dora.adapters.changes import Mask, Remove, Renew, apply, noted, ranks_after
from dora.adapters.components import stored_ranks
from dora.adapters.lowrank import LowRankLinear
from dora.adapters.peft import adapter_tensors
from dora.adapters.plan import Plan
from dora.errors import UserError


def layer_of(rank: int = 3, gated: bool = True) -> LowRankLinear:
    """A layer of 4 inputs and 5 outputs whose factors are random."""
    torch.manual_seed(0)
    layer = LowRankLinear(nn.Linear(4, 5), rank, 0.5, 0.0, gated)
    for p in layer.factors().values():
        nn.init.normal_(p)
    return layer


class Lengthened(LowRankLinear):
    """A layer of one's own with a factor that has no components: a length for each output."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.m = nn.Parameter(torch.ones(self.out_features))

    def factors(self) -> dict[str, nn.Parameter]:
        return {**super().factors(), "m": self.m}


def start_of(layer: LowRankLinear, rank: int) -> dict[str, torch.Tensor]:
    """New factors of another rank, B zero: an update that adds nothing yet."""
    start = {"A": torch.randn(rank, 4), "B": torch.zeros(5, rank), "g": torch.ones(rank)}
    return {name: start[name] for name in layer.factors()}


@pytest.mark.parametrize("gated", [True, False])
def test_renewing_keeps_the_output_freezes_the_old_factors_and_forgets_their_moments(
    gated: bool,
) -> None:
    layer = layer_of(gated=gated)
    optimizer = torch.optim.AdamW(layer.factors().values(), lr=0.1)
    x = torch.randn(7, 4)
    layer(x).pow(2).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    if gated:
        components.mask([layer], [torch.tensor([True, False, True])])
    before, delta = layer(x).detach(), layer.delta()
    start = start_of(layer, 2)
    apply(Renew([start]), [layer], optimizer)
    # Copied: a method may begin several layers from one tensor.
    assert all(p.data_ptr() != start[name].data_ptr() for name, p in layer.factors().items())
    torch.testing.assert_close(layer(x), before, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.delta(), delta, rtol=1e-6, atol=1e-7)
    assert (layer.rank, layer.kept_rank) == (2, 2 if gated else 3)  # a masked one is not kept
    assert not optimizer.state
    layer(x).pow(2).sum().backward()
    assert all(p.grad is not None for p in layer.factors().values())
    kept = [t.clone() for t in layer.kept().values()]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(kept, layer.kept().values(), strict=True))
    before = layer(x).detach()
    apply(Renew([start_of(layer, 1)]), [layer], optimizer)
    torch.testing.assert_close(layer(x), before, rtol=1e-5, atol=1e-6)
    assert (layer.rank, layer.kept_rank) == (1, (2 if gated else 3) + 2)


@pytest.mark.parametrize("change", ["remove", "renew"])
def test_a_factor_without_components_stays_as_it_is_with_its_moments(change: str) -> None:
    layer = Lengthened(nn.Linear(4, 5), 3, 0.5, 0.0, True)
    optimizer = torch.optim.AdamW(layer.factors().values(), lr=0.1)
    sum(p.pow(2).sum() for p in layer.factors().values()).backward()
    optimizer.step()
    m, moment = layer.m.clone(), optimizer.state[layer.m]["exp_avg"].clone()
    if change == "remove":
        apply(Remove([torch.tensor([True, False, False])]), [layer], optimizer)
        assert optimizer.state[layer.A]["exp_avg"].shape == (1, 4)
    else:
        start = {"A": torch.ones(1, 4), "B": torch.zeros(5, 1), "g": torch.ones(1)}
        apply(Renew([start]), [layer], optimizer)
    assert layer.rank == 1
    assert torch.equal(layer.m, m)
    assert torch.equal(optimizer.state[layer.m]["exp_avg"], moment)
    # One that the method names begins anew, as the others do.
    named = {name: torch.zeros_like(p) for name, p in layer.factors().items()}
    apply(Renew([named]), [layer], optimizer)
    assert not layer.m.any()
    assert not optimizer.state


def test_gradients_pass_kept_factors_to_the_input() -> None:
    layer = layer_of()
    apply(Renew([start_of(layer, 2)]), [layer])
    x = torch.randn(6, 4, requires_grad=True)
    layer(x).sum().backward()
    expected = (layer.base.weight + layer.delta()).sum(0).expand(6, 4)
    torch.testing.assert_close(x.grad, expected, rtol=1e-5, atol=1e-6)


def test_kept_factors_that_a_state_is_written_over_are_those_of_the_output() -> None:
    layer, other, x = layer_of(), layer_of(), torch.randn(7, 4)
    for one in (layer, other):
        apply(Renew([start_of(one, 2)]), [one])
    layer(x)  # merges its kept factors into the weight
    other.kept_A *= 3
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other(x))


def test_a_result_with_kept_factors_is_restored_on_a_fresh_model_bit_for_bit() -> None:
    def adapted() -> tuple[nn.Module, dict[str, LowRankLinear]]:
        model = tiny("roberta")
        train_head_only(model)
        matrices = linears(model, ("q", "v"))
        return model, lowrank.adapt(model, matrices, [2] * len(matrices), 0.5, 0.0, gated=False)

    def frozen(layers: dict[str, LowRankLinear]) -> dict[str, torch.Tensor]:
        return {f"{n}.{k}": t for n, layer in layers.items() for k, t in layer.kept().items()}

    model, layers = adapted()
    for layer in layers.values():
        nn.init.normal_(layer.B)
    random = [
        {"A": torch.randn_like(layer.A), "B": torch.randn_like(layer.B)}
        for layer in layers.values()
    ]
    first = result.snapshot(result.tensors_of(model, frozen(layers)))
    apply(Renew(random), layers.values())
    stored = result.snapshot(result.tensors_of(model, frozen(layers)))
    batch = batches(1)[0]
    logits = model(**batch).logits

    fresh, others = adapted()
    result.restore(fresh, frozen(others), stored)
    assert torch.equal(fresh(**batch).logits, logits)
    # Back to a result of before the renewal: what had not been kept then is taken away.
    result.restore(model, frozen(layers), first)
    assert frozen(layers) == {}
    with pytest.raises(KeyError, match=r"query\.C"):
        result.restore(fresh, {}, {f"{next(iter(others))}.C": torch.zeros(1)})

    names = adapter_tensors(others, {}, [])
    assert names[f"base_model.model.{next(iter(others))}.lora_A.weight"].shape == (4, 32)
    assert set(stored_ranks(others).values()) == {4}


def test_the_ranks_that_a_change_leaves_are_counted_with_kept_components() -> None:
    layers = {"a": layer_of(3), "b": layer_of(2)}
    keep = [torch.tensor([True, False, True]), torch.tensor([False, False])]
    assert ranks_after(Mask(keep), layers) == {"a": 2, "b": 0}
    change = Renew([start_of(layer, 1) for layer in layers.values()])
    apply(change, layers.values())
    assert ranks_after(change, layers) == {"a": 4, "b": 3}
    removal = Remove([torch.tensor([False]), torch.tensor([True])])
    apply(removal, layers.values())
    assert ranks_after(removal, layers) == stored_ranks(layers) == {"a": 3, "b": 3}


def test_the_journal_notes_a_count_of_no_live_component() -> None:
    assert noted(Remove([torch.tensor([False])], live_before=0)) == {"live_before": 0}
    assert noted(Mask([torch.tensor([True])])) == noted(Renew([])) == {}


@pytest.mark.parametrize(
    ("budget", "ranks", "missed"),
    [
        (Budget(rank=2), (1, 2), None),
        (Budget(rank=2), (0, 0), None),
        (Budget(rank=2), (3, 2), "5 components live at the end, budget r2 means 4"),
        (Budget(params=1000), (0, 0), None),
        (Budget(params=1000), (60, 60), "1080 adapter parameters at the end exceed"),
    ],
)
def test_a_budget_that_is_an_upper_bound_may_be_left_unused_and_not_exceeded(
    budget: Budget, ranks: tuple[int, int], missed: str | None
) -> None:
    matrices = (Matrix("a", 4, 5), Matrix("b", 4, 5))
    plan = Plan(budget, matrices, (100, 100), None, budget.total(matrices), at_most=True)
    assert (plan.missed(ranks) or "").startswith(missed or "")
    assert (plan.missed(ranks) is None) == (missed is None)
    assert plan.end_range()[1][0] == 0


def test_a_component_costs_what_the_method_says() -> None:
    matrix = Matrix("a", 4, 5, component_cost=18)
    assert (matrix.cost, Matrix("a", 4, 5).cost) == (18, 9)
    assert Budget(params=90).costs([matrix]) == [18]


@pytest.mark.parametrize("change", [Mask, Remove])
@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ([torch.tensor([True])], "keep[0] is bool of shape (1,): it must be bool of shape (3,), T"),
        ([torch.full((3,), 0.5)], "keep[0] is float32 of shape (3,): it must be bool of shape (3"),
        ([[True, False, True]], "keep[0] is list: it must be bool of shape (3,)"),
        ([], "keep has 0 entries for 1 layers: it must have one for each"),
    ],
)
def test_a_keep_that_does_not_name_each_component_is_refused(
    change: Any, keep: Any, said: str
) -> None:
    layer = layer_of()
    before = {name: p.detach().clone() for name, p in layer.factors().items()}
    with pytest.raises(UserError, match=re.escape(f"{change.__name__}.{said}")):
        apply(change(keep), [layer])
    assert all(torch.equal(p, before[name]) for name, p in layer.factors().items())
