"""Refuses a method whose components store another number of parameters than its plan counts.

The budget binds what the plan counts, so that such a run would stand in tables with a wrong size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dora.adapters import result
from dora.adapters.peft import adapter_tensors
from dora.adapters.plan import Plan
from dora.errors import UserError
from dora.methods.base import Method


@torch.no_grad()
def check_counted(method: Method, plan: Plan, model: nn.Module, head: Sequence[str]) -> None:
    """Raises UserError if the method, just attached to `model`, stores another number than planned.

    Raises it, too, if `Method.ranks` does not name the plan's matrices in their order.
    `head`: names of the head's parameters. A run counts again at its end, in its files.
    """
    names, named = [matrix.name for matrix in plan.matrices], list(method.ranks())
    if named != names:
        which = "in their order" if sorted(named) == sorted(names) else "each by its name"
        raise UserError(
            f"{type(method).__name__}.ranks() has {len(named)} entries, which must be the plan's "
            f"{len(names)} matrices, {which}: override it where `layers` are not these, or state "
            'budget = "none" in the class'
        )
    masked = any(layer.g is not None and not layer.g.all() for layer in method.layers.values())
    # No result stores masked components, and a whole model is stored by its own count.
    if masked or method.result == "model":
        return
    tensors = result.tensors_of(model, method.frozen())
    held = sum(tensors[name].numel() for name in tensors.keys() - uncounted(method, head))
    exported = None
    if method.result == "adapter":
        # One layer at a time: some store their whole update, which for all would be a model's size.
        exported = sum(
            t.numel()
            for name, layer in method.layers.items()
            for t in adapter_tensors({name: layer}, {}, []).values()
        )
    if problem := miscounted(method, plan, "the result", held, exported):
        raise UserError(problem)


def uncounted(method: Method, head: Sequence[str]) -> set[str]:
    """Returns the names of the head's parameters and of the gates, which no budget counts.

    An export folds gates g into B, so that they are not stored there.
    """
    return {*head, *(f"{name}.g" for name in method.layers)}


def miscounted(
    method: Method, plan: Plan, name: str, held: int, exported: int | None
) -> str | None:
    """Returns a message if neither number of stored parameters is the plan's at the present ranks.

    `held`: the parameters in the result called `name`, without head and gates. `exported`: those in
    the adapter for PEFT, if there is one. One of the two differs if a method has frozen tensors, or
    blocks that PEFT's file fills up.
    """
    planned = plan.params(list(method.ranks().values()))
    if planned in (held, exported):
        return None
    also = "" if exported is None else f" and the adapter for PEFT {exported:,}"
    return (
        f"the plan counts {planned:,} adapter parameters at these ranks, {name} holds {held:,}{also}: "
        f"{type(method).__name__}.component_cost must say what a component stores, and its plan's "
        "Matrix.fixed_cost what a matrix stores beside its components"
    )
