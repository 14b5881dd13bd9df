"""A method whose components store another number of parameters than its plan counts is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from conftest import RUN, linears, tiny, train_head_only
from dora.adapters.budget import Budget, Matrix
from dora.adapters.plan import Plan, equal_plan
from dora.configuration.method_choice import packaged
from dora.errors import RunFailed, UserError
from dora.guarding.counted import check_counted
from dora.guarding.planned import checked_plan
from dora.methods.base import Method
from dora.methods.lora import LoRA
from dora.methods.released import RELEASED
from dora.preparing.planning import priced
from runs import of_kind, run


class Dear(LoRA):
    """Says of its components that they store more than they do."""

    @classmethod
    def component_cost(cls, matrix: Matrix) -> int:
        return 2 * (matrix.d_in + matrix.d_out)


class OwnWeights(Method):
    """Trains a whole matrix under a budget that it plans for components."""

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


class Forgetful(LoRA):
    """Counts a component less than it stores once training has begun."""

    budget = "at_most"
    _trained = 0

    def after_step(self, step: int) -> None:
        self._trained = 1

    def ranks(self) -> dict[str, int]:
        first, *others = super().ranks().items()
        return dict([(first[0], first[1] - self._trained), *others])


class Backwards(LoRA):
    """Adapts the plan's matrices from the last to the first."""

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        super().__init__(settings, model, plan, run)
        self.layers = dict(reversed(self.layers.items()))


class Unnamed(OwnWeights):
    """Says nothing of its ranks."""

    def ranks(self) -> dict[str, int]:
        return {}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Backwards, r"Backwards\.ranks\(\) has 12 entries, .* plan's 12 matrices, in their order"),
        (Unnamed, r"Unnamed\.ranks\(\) has 0 entries, .* plan's 12 matrices, each by its name"),
    ],
)
def test_ranks_of_other_matrices_than_the_plans_are_refused_before_training(
    kind: type[Method], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        run(of_kind(kind, tmp_path))


def test_components_that_do_not_cost_what_their_method_says_are_refused_before_training(
    tmp_path: Path,
) -> None:
    said = (
        r"the result holds .*: Dear\.component_cost must say what a component stores, and its plan's "
        r"Matrix\.fixed_cost what a matrix stores beside its components"
    )
    with pytest.raises(UserError, match=said):
        run(of_kind(Dear, tmp_path))


def test_weights_under_a_budget_are_counted_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the result holds 36,864: OwnWeights\.component_cost"):
        run(of_kind(OwnWeights, tmp_path))


def test_the_files_of_a_finished_run_are_counted_again(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"best.safetensors holds .*: Forgetful\.component_cost"):
        run(of_kind(Forgetful, tmp_path))


@pytest.mark.parametrize("name", RELEASED)
def test_the_suites_methods_begin_with_the_parameters_that_their_plans_count(name: str) -> None:
    model = tiny("roberta")
    train_head_only(model)
    head = [name for name, p in model.named_parameters() if p.requires_grad]
    choice = packaged(name)
    if choice.kind.budget == "none":
        return
    matrices = tuple(priced(matrix, choice.kind) for matrix in linears(model))
    plan = checked_plan(choice, Budget.parse("r4"), matrices, RUN)
    check_counted(choice.kind(choice.settings, model, plan, RUN), plan, model, head)
