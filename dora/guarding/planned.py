"""Refuses a plan that is not one, or that leaves some of an exact budget unspent."""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path

from dora.adapters.budget import Budget, Matrix
from dora.adapters.plan import Plan
from dora.configuration.method_choice import MethodChoice
from dora.configuration.method_class import is_released, raised_at
from dora.methods.base import RunInfo
from dora.package import PACKAGE


def checked_plan(
    method: MethodChoice, budget: Budget, matrices: tuple[Matrix, ...], run: RunInfo
) -> Plan:
    """Returns the method's plan for the budget.

    Raises ValueError if the budget does not fit, or if a method of one's own plans something else.
    """
    try:
        plan = method.kind.plan(method.settings, budget, matrices, run)
    except ValueError as e:
        raise ValueError(f"{e}{_raised_outside(e)}") from e
    if plan is None:
        raise ValueError(
            f"method={method.name} says that budget= binds it ({method.kind.budget}) and plans "
            "nothing"
        )
    if not isinstance(plan, Plan):
        raise ValueError(
            f"method={method.name} plans a {type(plan).__name__}, which must be a Plan"
        )
    plan = replace(plan, at_most=method.kind.budget == "at_most")
    if problem := _unspent(plan, method):
        raise ValueError(f"the plan of method={method.name} {problem}")
    if plan.end is not None and (missed := plan.missed(list(plan.end))):
        raise ValueError(f"the plan of method={method.name} misses its budget: {missed}")
    return plan


def _unspent(plan: Plan, method: MethodChoice) -> str | None:
    """Returns a message if a plan of one's own leaves some of an exact budget unspent, else None.

    Such a run would stand in tables as one of this budget. The suite's plans are tested for it.
    """
    # A plan of another type may count otherwise, as that of bottlenecks does.
    if method.kind.budget != "exact" or is_released(method.kind) or type(plan) is not Plan:
        return None
    total = plan.budget.total(plan.matrices)
    if plan.target != total:
        return f"has target={plan.target}, which must be the whole budget, {total}"
    if plan.end is None:
        return None
    left = total - plan.budget.spent(plan.end, plan.matrices)
    room = plan.costs_below([matrix.full_rank for matrix in plan.matrices], plan.end)
    if room and left >= min(room):
        return (
            f"leaves {left} of {total} unspent, where a component of {min(room)} would fit: deal it "
            "(as equal_ranks does), or state budget = 'at_most' in the class"
        )
    return None


def _raised_outside(e: ValueError) -> str:
    """Returns the place of an error in a user's own method, in brackets; "" for one of this package.

    Python raises ValueError for many a slip, and none of its messages says where.
    """
    frame = traceback.extract_tb(e.__traceback__)[-1]
    if PACKAGE in Path(frame.filename).parents:
        return ""
    return f" ({raised_at(e)})"
