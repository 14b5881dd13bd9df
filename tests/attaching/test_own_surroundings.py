"""An adapter in a program that sets PyTorch's defaults, hooks its linears, or replaces parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import dora
from dora.errors import UserError
from own_models import STEPS, attach, batch, build, go_on, rows, train


@contextmanager
def defaults(dtype: torch.dtype, device: str) -> Iterator[None]:
    """Sets the type and the device of tensors that are made without."""
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):  # set_default_device(None) leaves torch 2.6 without any
            yield
    finally:
        torch.set_default_dtype(torch.float32)


# SoRA has gates, moments of its own and an allocation.
@pytest.mark.parametrize(
    "method",
    ["sora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dora", "adalora"))],
)
def test_defaults_of_the_program_reach_no_component_and_no_score(method: str) -> None:
    found = []
    for dtype, device in ((torch.float32, "cpu"), (torch.bfloat16, "meta")):
        model, held = build("mlp"), rows("mlp")
        with defaults(dtype, device):
            adapter = attach(model, method, dropout=0.0)
        optimizer = torch.optim.SGD(adapter.groups(1e-2))
        for step in range(1, STEPS + 1):
            (model(**batch(held, step))["loss"] + adapter.penalty()).backward()
            optimizer.step()
            with defaults(dtype, device):
                adapter.step()
                state = adapter.state_dict()
            optimizer.zero_grad()
        found.append(state)
    one, other = found
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("number", [4, 4000])  # rows, for both ways to compute
def test_a_backbone_in_float64_has_components_in_float64(number: int) -> None:
    model = build("mlp").double()
    adapter = dora.attach(model, "lora", "r4")
    for p in adapter.parameters():
        nn.init.normal_(p)
    assert {p.dtype for p in adapter.parameters()} == {torch.float64}
    x, labels = torch.randn(number, 12).double(), torch.zeros(number, dtype=torch.long)
    expected = model(x, labels)
    expected["loss"].backward()
    adapter.merge()
    torch.testing.assert_close(model(x, labels)["logits"], expected["logits"])


def test_hooks_on_a_linear_see_its_input_and_its_adapted_output_and_stay_after_a_merge() -> None:
    model, seen = build("mlp"), []
    before = model.second.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.second.register_forward_hook(lambda module, args, y: seen.append(y))
    adapter = attach(model, "lora")
    for p in adapter.parameters():
        nn.init.normal_(p, std=0.1)
    for held in (copy.deepcopy(model), model):
        seen.clear()
        held(**batch(rows("mlp"), 1))
        x, y = seen
        torch.testing.assert_close(y, model.second.base(x) + x @ model.second.delta().t())
    before.remove()
    adapter.merge()
    seen.clear()
    model(**batch(rows("mlp"), 1))
    assert len(seen) == 1


@pytest.mark.parametrize("how", ["a group added later", "a state assigned"])
@pytest.mark.parametrize("method", ["dora", "sora"])
def test_parameters_that_come_to_an_optimizer_late_are_noticed(method: str, how: str) -> None:
    model, held = build("mlp"), rows("mlp")
    adapter = attach(model, method)
    if how == "a state assigned":
        model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
        optimizer = torch.optim.AdamW(adapter.groups(1e-2))
    else:
        other = nn.Linear(3, 3)  # whatever is trained before the adapter is
        optimizer = torch.optim.AdamW(other.parameters(), lr=1e-2)
        other(torch.ones(3)).sum().backward()
        optimizer.step()
        adapter.step()
        assert adapter.taken == 0
        for group in adapter.groups(1e-2):
            optimizer.add_param_group(group)
    go_on(model, adapter, optimizer, held)
    assert adapter.taken == STEPS
    assert adapter.plan.missed(list(adapter.ranks().values())) is None


def test_a_weight_that_a_hook_computes_in_each_pass_is_left_alone() -> None:
    model: Any = build("mlp")
    prune.l1_unstructured(model.second, "weight", amount=0.5)
    adapter = attach(model)
    assert list(adapter.ranks()) == ["first", "last"]
    train(model, adapter, rows("mlp"), 2)
    assert model.second.weight.eq(0).sum() == 12 * 16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_components_that_were_cast_with_their_model_are_told_at_the_first_step(
    dtype: torch.dtype,
) -> None:
    model, held = build("mlp"), rows("mlp")
    adapter = attach(model, "adalora")
    model.to(dtype)
    for row in held:
        row["x"] = row["x"].to(dtype)
    with pytest.raises(UserError, match=f"in torch.float32 and are in {dtype} now: cast the model"):
        train(model, adapter, held)
