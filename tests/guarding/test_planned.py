"""A plan of a method of one's own that is none, or that leaves its budget unspent, is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from dora.adapters.budget import Budget, Matrix
from dora.adapters.plan import Plan, equal_plan
from dora.errors import UserError
from dora.methods.base import Method
from dora.methods.lora import LoRA
from dora.preparing.prepare import prepare
from runs import of_kind


class Unplanned(Method):
    """A budget binds it, and it plans nothing."""


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


def test_a_method_that_a_budget_binds_must_plan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"budget= binds it \(exact\) and plans nothing"):
        prepare(of_kind(Unplanned, tmp_path))


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
