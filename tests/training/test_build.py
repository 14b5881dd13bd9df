"""A method is refused where its kind of result would not hold all that it trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dora.adapters import lowrank
from dora.adapters.budget import Budget, Matrix
from dora.adapters.lowrank import LowRankLinear
from dora.adapters.plan import Plan, equal_plan
from dora.backbones.backbone import load_model
from dora.configuration.config import Config
from dora.errors import RunFailed, UserError
from dora.methods.base import Method
from dora.methods.lora import LoRA
from dora.preparing.prepare import Prepared, prepare
from dora.training.build import attach, build
from dora.training.lines import Lines
from dora.training.processes import World
from runs import run, small


class LoRAWithNorms(Method):
    """Low-rank layers, and LayerNorms that an adapter's file does not hold."""

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        self.layers = lowrank.adapt(model, plan.matrices, plan.start, 1.0, 0.0, gated=False)
        for name, p in model.named_parameters():
            if name.endswith("LayerNorm.bias"):
                p.requires_grad_(True)


class Nothing(Method):
    """No low-rank layers, and the result that the base class assumes."""


class NewModule(Method):
    """A module that the backbone does not have."""

    result = "weights"

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        super().__init__(settings, model, plan, run)
        model.bottleneck = nn.Linear(2, 2)


class OwnModule(NewModule):
    """The same module, as the kind of result that holds it."""

    result = "modules"


class HalfFrozen(LoRA):
    """Keeps A as it is drawn, and does not name it."""

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        super().__init__(settings, model, plan, run)
        for layer in self.layers.values():
            layer.A.requires_grad_(False)


class HalfNamed(HalfFrozen):
    """Names it."""

    def frozen(self) -> dict[str, Tensor]:
        return {f"{name}.A": layer.A for name, layer in self.layers.items()}


class Unplanned(Method):
    """A budget binds it, and it plans nothing."""


class Dear(LoRA):
    """Says of its components that they store more than they do."""

    @classmethod
    def component_cost(cls, matrix: Matrix) -> int:
        return 2 * (matrix.d_in + matrix.d_out)


class TwiceLinear(LowRankLinear):
    """Adds twice the update that it stores."""

    def forward(self, x: Tensor) -> Tensor:
        update = F.linear(F.linear(x, self.A), self.B)
        return F.linear(x, self.base.weight, self.base.bias) + 2 * self.scale * update


class StoredLinear(TwiceLinear):
    """Stores what it adds."""

    def stored(self) -> tuple[Tensor, Tensor]:
        A, B = self.folded()
        return A, 2 * B


class Twice(Method):
    """Low-rank layers of one's own."""

    title = "x"
    layer: type[LowRankLinear] = TwiceLinear

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        self.layers = lowrank.adapt(
            model, plan.matrices, plan.start, 1.0, 0.0, False, layer_type=self.layer
        )
        for layer in self.layers.values():
            nn.init.normal_(layer.A)
            nn.init.normal_(layer.B, std=0.01)

    @classmethod
    def plan(cls, settings: Any, budget: Budget, matrices: tuple[Matrix, ...], run: Any) -> Plan:
        return equal_plan(budget, matrices)


class Stored(Twice):
    """The same, with an update that is stored as it is."""

    layer = StoredLinear


class OwnWeights(Method):
    """Trains whole matrices under a budget that it plans for components."""

    title = "x"
    result = "weights"

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        self._ranks = {m.name: r for m, r in zip(plan.matrices, plan.start, strict=True)}
        model.get_parameter(f"{plan.matrices[0].name}.weight").requires_grad_(True)

    @classmethod
    def plan(cls, settings: Any, budget: Budget, matrices: tuple[Matrix, ...], run: Any) -> Plan:
        return equal_plan(budget, matrices)

    def ranks(self) -> dict[str, int]:
        return self._ranks


class Greedy(LoRA):
    """Plans an end above its budget."""

    @classmethod
    def plan(cls, settings: Any, budget: Budget, matrices: tuple[Matrix, ...], run: Any) -> Plan:
        plan = equal_plan(budget, matrices)
        more = tuple(r + 1 for r in plan.start)
        return dataclasses.replace(plan, start=more, end=more)


class Stingy(LoRA):
    """Plans rank 1 everywhere, whatever its budget."""

    @classmethod
    def plan(cls, settings: Any, budget: Budget, matrices: tuple[Matrix, ...], run: Any) -> Plan:
        ones = (1,) * len(matrices)
        return Plan(budget, matrices, ones, ones, budget.total(matrices))


class Humble(LoRA):
    """Plans rank 1 everywhere, and calls it the target."""

    @classmethod
    def plan(cls, settings: Any, budget: Budget, matrices: tuple[Matrix, ...], run: Any) -> Plan:
        ones = (1,) * len(matrices)
        plan = Plan(budget, matrices, ones, ones, 0)
        return dataclasses.replace(plan, target=plan.start_total)


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


class Unfinished(LoRA):
    """Changes components behind the run's end."""

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        super().__init__(settings, model, plan, run)
        self.ranks_final_at = run.total_steps + 10


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


def of_kind(kind: type[Method], results: Path) -> Config:
    """LoRA's small run, trained by another class."""
    config = small(results, "method=lora", "max_steps=2")
    config.method = dataclasses.replace(config.chosen, kind=kind)
    return config


def test_a_method_that_a_budget_binds_must_plan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"budget= binds it \(exact\) and plans nothing"):
        prepare(of_kind(Unplanned, tmp_path))


def test_a_component_that_does_not_cost_what_its_method_says_fails_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"Dear\.component_cost must say what a component stores"):
        run(of_kind(Dear, tmp_path))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_layer_that_stores_another_update_than_it_adds_fails_the_run(
    precision: str, tmp_path: Path
) -> None:
    config = of_kind(Twice, tmp_path)
    config.precision = precision
    with pytest.raises(RunFailed, match=r"TwiceLinear\.stored\(\) gives another update than forw"):
        run(config)
    config = of_kind(Stored, tmp_path / "stored")
    config.precision = precision
    assert run(config)["status"] == "done"


def test_weights_under_a_budget_are_counted_too(tmp_path: Path) -> None:
    with pytest.raises(
        RunFailed, match=r"best.safetensors holds 36,864: OwnWeights\.component_cost"
    ):
        run(of_kind(OwnWeights, tmp_path))


def test_a_plan_that_misses_its_budget_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the plan of method=lora misses its budget: 108 compon"):
        prepare(of_kind(Greedy, tmp_path))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Stingy, r"leaves 23088 of 30000 unspent, where a component of 384 would fit: .*'at_most'"),
        (Humble, "has target=6912, which must be the whole budget, 30000"),
    ],
)
def test_an_exact_budget_must_be_spent_by_the_plan(
    kind: type[LoRA], said: str, tmp_path: Path
) -> None:
    config = of_kind(kind, tmp_path)
    config.budget = "30000"
    with pytest.raises(UserError, match=said):
        prepare(config)


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
            Unfinished,
            r"Unfinished\.ranks_final_at=12 is behind the run's last step, 2: .*max_steps",
        ),
        (
            Counting,
            r"Counting\.state returned a int \(3\) as 'taken', which must be a Tensor by its",
        ),
        (Doubled, r"Doubled\.state returned as 'b' the memory that is saved as 'a' already"),
        (Saving, r"Saving\.state returned as 'first' the memory that is saved as 'weights/.*A' al"),
    ],
)
def test_a_state_that_no_checkpoint_can_hold_and_an_end_behind_the_run_are_named(
    kind: type[Method], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        run(of_kind(kind, tmp_path))


def attached(kind: type[Method], results: Path) -> None:
    config = of_kind(kind, results)
    lora: Prepared = prepare(small(results, "method=lora"))
    model, head = load_model(lora.model, 2, None, 1)
    attach(dataclasses.replace(lora, config=config), model, head)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (LoRAWithNorms, r'result = "adapter", which holds factors .* and trains .*LayerNorm\.bias'),
        (Nothing, r'Nothing has no low-rank layers, so its result is no "adapter"'),
        (
            NewModule,
            r'result = "weights", which holds parameters of the backbone alone, .*bottleneck',
        ),
        (
            HalfFrozen,
            r"HalfFrozen freezes .*\.A, which its result would lack: let frozen\(\) name it",
        ),
    ],
)
def test_a_result_that_would_not_hold_what_is_trained_is_refused(
    kind: type[Method], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        attached(kind, tmp_path)


def test_a_frozen_factor_that_the_method_names_is_part_of_its_result(tmp_path: Path) -> None:
    attached(HalfNamed, tmp_path)


def test_modules_of_a_methods_own_are_a_kind_of_result(tmp_path: Path) -> None:
    attached(OwnModule, tmp_path)


def test_a_regressions_head_starts_at_the_mean_label_of_its_own_training_rows(
    tmp_path: Path,
) -> None:
    p = prepare(small(tmp_path, "method=lora", "task=stsb", "limit_train=20"))
    loop = build(p, World(0, 1, torch.device("cpu")), None, Lines(None))
    labels = p.rows["train"].label
    assert labels is not None
    means = [float(np.mean(of)) for of in (labels[p.train_rows], labels)]
    bias = loop.setup.model.get_parameter("classifier.out_proj.bias").item()
    assert bias == pytest.approx(means[0], abs=1e-6)
    assert abs(means[0] - means[1]) > 1e-3  # other rows would show
