"""What a method must not do by itself in a run's steps, and what its moments must return."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import METHODS, linears, loop_of, tiny, tokens, train_head_only
from dora.adapters.budget import Budget
from dora.adapters.changes import Remove
from dora.adapters.lowrank import LowRankLinear
from dora.adapters.resizing import set_data
from dora.errors import UserError
from dora.methods.base import Method, RunInfo
from dora.methods.lora import LoRA
from dora.training.loop import Loop
from runs import of_kind, run

AT = 2  # the step in which the method acts


class Acting(LoRA):
    """LoRA that does something to its layers in step AT."""

    act: Callable[[LowRankLinear], Any]
    moment = "after_step"

    def after_step(self, step: int) -> Any:
        return self._act(step, "after_step")

    def noise(self, step: int) -> None:
        self._act(step, "noise")

    def _act(self, step: int, moment: str) -> Any:
        if step != AT or moment != self.moment:
            return None
        with torch.no_grad():
            found = [self.act(layer) for layer in self.layers.values()]
        return found[0] if isinstance(found[0], Remove) else None


def acting(
    act: Callable[[LowRankLinear], Any],
    moment: str = "after_step",
    kind: type[Acting] = Acting,
    budget: str = "r4",
) -> Loop:
    """A loop whose method calls `act` on every layer in step AT."""
    model = tiny("roberta")
    train_head_only(model)
    settings, matrices = METHODS["lora"][0](), linears(model)
    plan = LoRA.plan(settings, Budget.parse(budget), matrices, RunInfo(10, 3))
    method = kind(settings, model, plan, RunInfo(10, 3))
    method.act, method.moment = act, moment  # type: ignore[method-assign, assignment]
    return loop_of(model, method, tokens(16), 10, batch_size=8)


def grow(layer: LowRankLinear) -> None:
    set_data(layer.A, torch.cat([layer.A, torch.zeros_like(layer.A[:1])]))
    set_data(layer.B, torch.cat([layer.B, torch.zeros_like(layer.B[:, :1])], 1))


def shrink(layer: LowRankLinear) -> None:
    layer.A.data, layer.B.data = layer.A.data[1:], layer.B.data[:, 1:]


def freeze(layer: LowRankLinear) -> None:
    layer.A.requires_grad_(False)


def replace(layer: LowRankLinear) -> None:
    layer.A = nn.Parameter(layer.A * 0.9)


def unfreeze(layer: LowRankLinear) -> None:
    layer.base.weight.requires_grad_(True)


@pytest.mark.parametrize("moment", ["after_step", "noise"])
@pytest.mark.parametrize(
    ("act", "said"),
    [
        (
            grow,
            r"Acting changed .*query\.A from \(4, 32\) to \(5, 32\) by itself in step 2, .*Renew",
        ),
        (
            shrink,
            r"Acting changed .*query\.A from \(4, 32\) to \(3, 32\) by itself in step 2, .*Remov",
        ),
        (
            freeze,
            r"Acting froze .*query\.A in step 2, which its result would lack: .* \.grad to None",
        ),
    ],
)
def test_a_shape_or_a_freeze_that_the_optimizer_does_not_follow_is_refused(
    act: Any, said: str, moment: str
) -> None:
    loop = acting(act, moment)
    loop.train_step(1)
    with pytest.raises(UserError, match=said):
        loop.train_step(AT)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (replace, r"Acting put another tensor in the place of .*query\.A by step 2, .* \(copy_\)"),
        (
            unfreeze,
            r"Acting began to train .*query\.base\.weight by step 2, and the optimizer does",
        ),
    ],
)
def test_a_tensor_that_the_optimizer_does_not_have_is_refused_when_it_would_be_saved(
    act: Any, said: str
) -> None:
    loop = acting(act)
    loop.train_step(1)
    loop.save()
    loop.train_step(AT)
    loop.step = AT
    with pytest.raises(UserError, match=said):
        loop.save()


def test_what_is_set_in_another_memory_order_is_laid_in_that_of_a_checkpoint() -> None:
    def transpose(layer: LowRankLinear) -> None:
        layer.A.data = layer.A.data.t().contiguous().t()

    loop = acting(transpose)
    for step in (1, AT, 3):
        loop.train_step(step)
    assert all(layer.A.is_contiguous() for layer in loop.setup.method.layers.values())


def test_a_change_that_is_returned_and_weights_of_other_ranks_pass() -> None:
    keep = torch.tensor([True, False, True, True])
    loop = acting(lambda layer: Remove([keep] * 12))
    loop.train_step(1)
    first = {name: t.detach().clone() for name, t in loop.result().items()}
    loop.train_step(AT)
    loop.train_step(3)
    loop.save()
    loop.stepper.optimizer.state.clear()  # moments of the first ranks come with a checkpoint
    loop.put(first)
    loop.train_step(1)
    assert {layer.rank for layer in loop.setup.method.layers.values()} == {4}


def test_tensors_that_no_loss_reaches_are_named_at_the_end_of_a_method_of_ones_own() -> None:
    def named(loop: Loop) -> list[str]:
        loop.train_step(1)
        return loop.setup.guard.ended(loop.stepper.optimizer)

    class Idle(Acting):
        """LoRA whose layers have a factor more, which no forward pass reads."""

        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            for layer in self.layers.values():
                layer.idle = nn.Parameter(torch.ones(3))

    assert named(acting(lambda layer: None)) == []
    loop = acting(lambda layer: None, kind=Idle)
    (warning,) = named(loop)
    assert re.match(
        r"Idle trains .*query\.idle and 11 more, and no loss has reached them in the whole run",
        warning,
    )
    # One gradient is enough, however late; the optimizer may have forgotten it, as after a round.
    for layer in loop.setup.method.layers.values():
        layer.idle.grad = torch.ones(3)
    loop.setup.guard.check(2)
    loop.stepper.optimizer.state.clear()
    assert loop.setup.guard.ended(loop.stepper.optimizer) == []


def test_a_matrix_without_components_has_nothing_that_a_loss_could_reach() -> None:
    # Two components for twelve matrices.
    loop = acting(lambda layer: None, budget="0.2k")
    ranks = loop.setup.method.ranks().values()
    assert 0 in ranks
    assert any(ranks)
    loop.train_step(1)
    assert loop.setup.guard.ended(loop.stepper.optimizer) == []


def test_a_run_that_is_resumed_names_no_tensor_that_was_reached_before() -> None:
    first, resumed = acting(lambda layer: None), acting(lambda layer: None)
    first.train_step(1)
    # Nothing is said by a process that has taken no step.
    assert resumed.setup.guard.ended(resumed.stepper.optimizer) == []
    for p, before in zip(
        resumed.stepper.parameters.values(), first.stepper.parameters.values(), strict=True
    ):
        resumed.stepper.optimizer.state[p] = first.stepper.optimizer.state[before]
    resumed.setup.guard.check(2)
    assert resumed.setup.guard.ended(resumed.stepper.optimizer) == []


class Forgetful(LoRA):
    """Sets a buffer when training begins, and does not name it."""

    def begin(self, forward: Callable[[int], None]) -> None:
        next(iter(self.layers.values())).register_buffer("seen", torch.ones(2))


class Mindful(Forgetful):
    """Names it."""

    def frozen(self) -> dict[str, Tensor]:
        name, layer = next(iter(self.layers.items()))
        seen = {f"{name}.{which}": held for which, held in layer.named_buffers(recurse=False)}
        return {**super().frozen(), **seen}


class Counting(LoRA):
    """Saves a number that is no tensor."""

    def state(self) -> dict[str, Any]:
        return {"taken": 3}


class Doubled(LoRA):
    """Saves one tensor under two names."""

    mean = torch.ones(3)

    def state(self) -> dict[str, Tensor]:
        return {"a": self.mean, "b": self.mean}


class Saving(LoRA):
    """Saves a trained tensor a second time."""

    def state(self) -> dict[str, Tensor]:
        return {"first": next(iter(self.layers.values())).A}


def test_what_begins_a_run_must_be_part_of_its_result(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"Forgetful\.begin sets .*\.seen, .* let frozen\(\) name it"
    ):
        run(of_kind(Forgetful, tmp_path))
    assert run(of_kind(Mindful, tmp_path))["status"] == "done"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            Counting,
            r"Counting\.state returned a int \(3\) as 'taken', which must be a Tensor by its",
        ),
        (Doubled, r"Doubled\.state returned as 'b' the memory that is saved as 'a' already"),
        (Saving, r"Saving\.state returned as 'first' the memory that is saved as 'weights/.*A' al"),
    ],
)
def test_a_state_that_no_checkpoint_can_hold_is_named(
    kind: type[Method], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        run(of_kind(kind, tmp_path))
