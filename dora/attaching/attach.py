"""`dora.attach`: a method of this suite on any PyTorch model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from torch import nn

from dora.adapters.budget import Budget, Matrix
from dora.adapters.plan import Plan
from dora.attaching.adapter import Adapter
from dora.attaching.linears import (
    as_linear,
    find_head,
    find_linears,
    refuse_float16,
    refuse_wrapped,
)
from dora.attaching.saving import misread
from dora.configuration.method_choice import MethodChoice, packaged, packaged_names, spelled
from dora.errors import UserError
from dora.methods.base import Method, RunInfo

# Moments that only the suite's own loop has: it runs training rows before the first step, sets the
# learning rate, and stands between the forward pass, backward, the clip and the optimizer.
_OWN_LOOP = (
    "begin",
    "learning_rate",
    "noise",
    "adjust_gradients",
    "adjust_clipped_gradients",
    "aggregate",
)


def attach(
    model: nn.Module,
    method: str = "dora",
    budget: str = "r8",
    steps: int | None = None,
    *,
    target: str | Sequence[str] | None = None,
    head: Sequence[str] | None = None,
    seed: int = 1,
    **settings: Any,
) -> Adapter:
    """Attaches a method to a model and freezes its backbone; changes the model in place.

    `method`: lora, adalora, dora, sora, melora or weight_decomposed. `budget`: `r8`, on average 8
    components a matrix at the end, or a number of parameters such as `0.3M`. `steps`: the number of
    optimizer steps, which a method that prunes plans its schedule by.

    `target`: the linears to adapt (nn.Linear, and Conv1D of Transformers): a regular expression for
    whole names, or a list of names or of their ends (`["q_proj", "v_proj"]`). Without it, all but
    the head's and, of a language model, the output's. `head`: names of modules that are trained
    whole. Without it, in a Transformers model all modules beside the backbone (classifier, score),
    but none in a language model; in any other model none.

    `seed`: of the components' start values. `settings`: the method's own, as in
    conf/method/NAME.yaml. Raises UserError with every mistake that can be told at once.
    """
    choice = _chosen(method, settings)
    problems = _problems(choice, steps, seed)
    try:
        wanted = Budget.parse(str(budget))
    except ValueError as e:
        problems.append(str(e))
    if problems:
        raise UserError(*problems)
    refuse_wrapped(model)
    modules = find_head(model, [head] if isinstance(head, str) else head)
    refuse_float16(model, modules)
    found = find_linears(model, modules, target)
    if problem := misread(model, modules, found):
        warnings.warn(f"save() will be refused: {problem}", stacklevel=2)
    run = RunInfo(steps or 0, seed)
    plan = _plan(choice, wanted, found, run)
    _freeze(model, found)
    attached = choice.kind(choice.settings, model, plan, run)
    for name in modules:
        model.get_submodule(name).requires_grad_(True)
    for layer in attached.layers.values():  # drawn on the CPU
        layer.to(layer.base.weight.device)
        layer.train(model.training)
    attached.load(attached.state())
    length = f"steps={steps}, " if _prunes(choice.kind) else ""
    values = ", ".join(f"{key}={value}" for key, value in _settings_of(choice).items())
    arguments = f"{length}budget={wanted}, {values}"
    return Adapter(model, attached, plan, steps or 0, modules, found, arguments)


def serves(kind: type[Method]) -> bool:
    """Says whether a method works in a loop other than the suite's."""
    needs = [name for name in _OWN_LOOP if getattr(kind, name) is not getattr(Method, name)]
    return kind.result == "adapter" and not kind.federated and not needs


def _chosen(method: str, settings: dict[str, Any]) -> MethodChoice:
    """Returns the method with its settings. Raises UserError for others than there are."""
    if method not in packaged_names():
        raise UserError(f"method={method} is none of this suite's; {_working()} can be attached")
    kind = packaged(method).kind
    if not serves(kind):
        needs = "needs the suite's own loop" if kind.result == "adapter" else "leaves no adapter"
        raise UserError(
            f"method={method} {needs} (python -m dora.run method={method}); {_working()} can be attached"
        )
    known = [field.name for field in fields(kind.settings_type) if field.name != "base_lr"]
    if unknown := [name for name in settings if name not in known]:
        rate = "; the learning rate is your optimizer's" if {"lr", "base_lr"} & {*unknown} else ""
        raise UserError(
            f"{method} has no setting {', '.join(unknown)}; it has {', '.join(known)}{rate}"
        )
    try:
        return packaged(method, **settings)
    except ValueError as e:  # OmegaConf's, whose first line names the value
        raise UserError(f"{method}: {str(e).splitlines()[0]}") from e


def _working() -> str:
    """Returns the methods that can be attached, for a message: to list them loads them all."""
    return ", ".join(name for name in packaged_names() if serves(packaged(name).kind))


def _settings_of(choice: MethodChoice) -> dict[str, Any]:
    """Returns a method's settings by name, less the learning rate, which is the optimizer's."""
    return {key: value for key, value in spelled(choice).items() if key not in ("name", "base_lr")}


def _problems(choice: MethodChoice, steps: Any, seed: Any) -> list[str]:
    """Returns a message for each setting out of range, and for a length that is missing."""
    found = []
    if not _whole(seed, 0):
        found.append(f"seed={seed!r} must be a whole number from 0")
    if steps is None and _prunes(choice.kind):
        found.append(
            f"{choice.name} plans its pruning by the run's length: give steps=, the number of "
            "optimizer steps"
        )
    elif steps is not None and not _whole(steps, 1):
        found.append(f"steps={steps!r} must be a whole number from 1: of optimizer steps")
    else:
        found += choice.settings.problems(steps)
    return [problem.replace("method.", "") for problem in found]


def _prunes(kind: type[Method]) -> bool:
    """Says whether the method acts between steps, on a schedule of the run's length."""
    return kind.after_step is not Method.after_step


def _whole(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _plan(choice: MethodChoice, budget: Budget, found: dict[str, nn.Module], run: RunInfo) -> Plan:
    """Returns the method's plan for these linears. Raises UserError where the budget does not fit.

    Each linear stands alone: that two of them read one input is known of the suite's own models.
    """
    bare = [(name, as_linear(module)) for name, module in found.items()]
    matrices = [Matrix(name, linear.in_features, linear.out_features) for name, linear in bare]
    priced = tuple(replace(m, component_cost=choice.kind.component_cost(m)) for m in matrices)
    try:
        plan = choice.kind.plan(choice.settings, budget, priced, run)
    except ValueError as e:
        smallest = min(matrices, key=lambda m: m.full_rank)
        raise UserError(
            f"{str(e).replace('method.', '')} (the smallest is {smallest.name}, {smallest.d_out} x "
            f"{smallest.d_in}: target= can leave it out, head=['{smallest.name}'] trains it whole)"
        ) from e
    assert plan is not None  # a method that `serves` has a budget
    return replace(plan, at_most=choice.kind.budget == "at_most")


def _freeze(model: nn.Module, found: dict[str, nn.Module]) -> None:
    """Freezes the whole model, and puts an nn.Linear in place of each Conv1D to adapt."""
    model.requires_grad_(False)
    for name, module in found.items():
        parent, _, attribute = name.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, attribute, as_linear(module))
        if isinstance(owner, nn.TransformerEncoderLayer):
            # Its fast path for evaluation reads weights without calling the linears.
            owner.activation_relu_or_gelu = 0
