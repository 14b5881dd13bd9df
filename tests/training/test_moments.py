"""The moments of a step, in their order, and what a method may change at each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import linears, loop_of, tiny, tokens, train_head_only
from dora.adapters import lowrank
from dora.adapters.changes import Change, Mask, Remove, Renew
from dora.errors import UserError
from dora.methods.base import Method, ParameterGroup, RunInfo
from dora.training.lines import Lines


class Everything(Method):
    """Speaks at every moment, and notes each with the gradients' norm that it finds."""

    title = "everything"

    def __init__(self, model: nn.Module) -> None:
        matrices = linears(model, ("q", "v"))
        self.layers = lowrank.adapt(model, matrices, [2] * len(matrices), 1.0, 0.0, gated=True)
        for layer in self.layers.values():
            nn.init.ones_(layer.A)
            nn.init.ones_(layer.B)
            nn.init.ones_(layer.g)
        self.model, self.events = model, []
        self.change: Change | None = None

    def note(self, moment: str) -> None:  # type: ignore[override]
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.stack([g.norm() for g in grads]).norm().item() if grads else None
        self.events.append((moment, norm))

    def parameter_groups(self) -> list[ParameterGroup]:
        gates = [layer.g for layer in self.layers.values() if layer.g is not None]
        return [ParameterGroup(gates, rate=10.0, weight_decay=0.0)]

    def learning_rate(self, step: int, usual: float) -> float:
        self.note("rate")
        return usual / 2

    def noise(self, step: int) -> None:
        self.note("noise")

    def penalty(self, step: int) -> torch.Tensor:
        self.note("penalty")
        return 100 * sum((layer.A.pow(2).sum() for layer in self.layers.values()), torch.zeros(()))

    def adjust_gradients(self, step: int) -> None:
        self.note("adjust")
        for layer in self.layers.values():
            layer.A.grad = 2 * layer.A.grad  # type: ignore[operator]

    def adjust_clipped_gradients(self, step: int) -> None:
        self.note("adjust clipped")

    def update(self, step: int, rate: float) -> None:
        self.note("update")
        self.rate = rate

    def after_step(self, step: int) -> Change | None:
        self.note("after step")
        return self.change


def taken(change: Change | None = None, **config: Any) -> tuple[Any, Everything]:
    """A loop after its second step (the first has rate 0), and its method."""
    model = tiny("roberta")
    train_head_only(model)
    method = Everything(model)
    method.change = change
    loop = loop_of(model, method, tokens(16), 10, batch_size=8, warmup=0.0, **config)
    loop.stepper.observe = method.note
    loop.train_step(2)
    return loop, method


def test_the_moments_of_a_step_come_in_their_order() -> None:
    _, method = taken(Mask([torch.tensor([True, False])] * 4))
    names, norms = zip(*method.events, strict=True)
    assert names == (
        "rate",
        "noise",
        "penalty",
        "backward",
        "adjust",
        "clip",
        "adjust clipped",
        "update",
        "optimizer",
        "after step",
        "applied",
        "clear",
    )
    at = dict(zip(names, norms, strict=True))
    assert at["penalty"] is None
    assert at["backward"] == at["adjust"] > 10
    # The clip comes after the first adjustment, and what it leaves is there until the end.
    assert at["clip"] == at["after step"] == pytest.approx(1, abs=1e-5)
    assert at["clear"] is None


def test_a_method_sets_the_rate_of_a_step_and_its_tensors_rates_and_decays() -> None:
    loop, _ = taken(lr=1e-3, head_lr=2e-3, weight_decay=0.1)
    factor = 0.5 * 9 / 10  # half of a linear schedule's second of ten steps
    names = {id(p): name for name, p in loop.stepper.parameters.items()}
    found = {
        names[id(p)]: (group["lr"] / factor, group["weight_decay"])
        for group in loop.stepper.optimizer.param_groups
        for p in group["params"]
    }
    assert found.keys() == set(names.values())
    for name, (rate, decay) in found.items():
        if name in loop.setup.head:
            want = 2e-3, 0.0 if name.endswith("bias") else 0.1
        else:
            want = (1e-2, 0.0) if name.endswith(".g") else (1e-3, 0.1)
        assert (rate, decay) == pytest.approx(want), name


def test_a_group_of_a_tensor_that_no_module_holds_is_refused() -> None:
    class Loose(Everything):
        def parameter_groups(self) -> list[ParameterGroup]:
            return [ParameterGroup([nn.Parameter(torch.zeros(3))], rate=2.0)]

    model = tiny("roberta")
    train_head_only(model)
    with pytest.raises(UserError, match=r"names 1 tensor that the model does not have .*\(3,\)"):
        loop_of(model, Loose(model), tokens(16), 10, batch_size=8)


def test_a_method_without_layers_need_not_say_so() -> None:
    class Bare(Method):
        def __init__(self) -> None:
            pass

    method = Bare()
    assert (dict(method.layers), method.ranks(), method.frozen()) == ({}, {}, {})


class ByItself(Everything):
    """Moves its gates itself: each by the rate, against its gradient's sign."""

    def parameter_groups(self) -> list[ParameterGroup]:
        (mine,) = super().parameter_groups()
        return [ParameterGroup(mine.parameters, by_method=True)]

    @torch.no_grad()
    def update(self, step: int, rate: float) -> None:
        for g in super().parameter_groups()[0].parameters:
            g.sub_(rate * g.grad.sign())  # type: ignore[union-attr]


def test_a_method_moves_tensors_that_the_optimizer_leaves_alone() -> None:
    model = tiny("roberta")
    train_head_only(model)
    method = ByItself(model)
    loop = loop_of(model, method, tokens(16), 10, batch_size=8, warmup=0.0, lr=1e-3, weight_decay=1)
    held = {id(p) for group in loop.stepper.optimizer.param_groups for p in group["params"]}
    gates = [layer.g for layer in method.layers.values()]
    assert not held & {id(g) for g in gates}
    loop.train_step(2)
    # From 1, by half of a linear schedule's second of ten steps.
    rate = 1e-3 * 0.5 * 9 / 10
    for g in gates:
        torch.testing.assert_close((g - 1).abs(), torch.full((2,), rate), rtol=1e-3, atol=0)
        assert g.grad is None  # or the next step's gradient would be added to this one's


def test_a_change_carries_its_count_and_its_warning_into_the_journal_and_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop, method = taken()
    events: list[dict[str, Any]] = []
    loop.stepper.log = lambda event: (events.append(event), loop._log_ranks(event))[0]
    keep = [torch.tensor([True, False])] * 3 + [torch.tensor([False, False])]
    method.change = Remove(keep, live_before=7, warning="nothing to be done; do it otherwise")
    with Lines(tmp_path) as loop.say:
        loop.train_step(3)
    (event,) = events
    assert (event["total"], event["live_before"]) == (3, 7)
    assert event["warning"] == "nothing to be done; do it otherwise"
    assert capsys.readouterr().out.splitlines() == [
        "step 3/10  3 of 7 live components kept, 1 of 4 matrices without any",
        "warning: nothing to be done; do it otherwise",
    ]
    # A method that says nothing adds no entry and no line.
    method.change = Mask([torch.tensor([True])] * 3 + [torch.zeros(0, dtype=torch.bool)])
    loop.train_step(4)
    assert events[1].keys() == {"step", "total", "ranks"}
    # A final mask that is applied again is no new allocation.
    method.change = Mask([torch.tensor([True])] * 3 + [torch.zeros(0, dtype=torch.bool)], new=False)
    loop.train_step(5)
    assert len(events) == 2
    assert capsys.readouterr().out == ""


def test_renewed_factors_train_on_and_are_part_of_the_result() -> None:
    start = [{"A": torch.ones(1, 32), "B": torch.zeros(32, 1), "g": torch.ones(1)}] * 4
    loop, method = taken(Renew(start))
    layer = next(iter(method.layers.values()))
    assert (layer.rank, layer.kept_rank) == (1, 2)
    assert sum(name.endswith(".kept_A") for name in loop.result()) == 4
    method.change = None
    before = layer.B.detach().clone()
    loop.train_step(3)
    assert not torch.equal(layer.B, before)


def test_named_generators_are_functions_of_seed_name_and_index() -> None:
    def draw(seed: int, *which: Any) -> float:
        return torch.rand((), generator=RunInfo(10, seed).generator(*which)).item()

    assert draw(1, "noise", 3) == draw(1, "noise", 3)
    drawn = [draw(1, "noise", 3), draw(1, "noise", 4), draw(1, "other", 3), draw(2, "noise", 3)]
    assert len(set(drawn)) == 4
    alone = torch.rand((), generator=torch.Generator().manual_seed(7)).item()
    assert draw(7, "start") == alone
