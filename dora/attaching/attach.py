"""`dora.attach`: a method of this suite, or of one's own, on any PyTorch model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from dora.adapters.budget import Budget, Matrix
from dora.adapters.plan import Plan
from dora.attaching.adapter import Adapter
from dora.attaching.checks import refuse_unwatched
from dora.attaching.linears import (
    as_linear,
    find_head,
    find_linears,
    refuse_untrainable,
    refuse_wrapped,
)
from dora.attaching.moments import ACTING
from dora.attaching.saving import misread
from dora.configuration.method_choice import (
    MethodChoice,
    changed,
    packaged,
    packaged_names,
    spelled,
)
from dora.configuration.method_class import fingerprint, refuse_edited
from dora.configuration.value_types import type_rule
from dora.errors import UserError
from dora.guarding.guard import Guard
from dora.guarding.loaded import Loaded
from dora.guarding.planned import checked_plan
from dora.methods.base import Method, RunInfo, overrides
from dora.plain import is_whole
from dora.preparing.planning import priced
from dora.python.train import method_of

# Moments that only the suite's own loop has: it sets the learning rate, and stands between backward
# and the clip.
_OWN_LOOP = ("learning_rate", "adjust_gradients")
# Moments that are told a step's number, and may go by its share of the run's length.
_IN_STEPS = ("penalty", *ACTING)


def attach(
    model: nn.Module,
    method: str = "dora",
    budget: str = "r8",
    steps: int | None = None,
    *,
    target: str | Sequence[str] | None = None,
    head: Sequence[str] | None = None,
    seed: int = 1,
    config_dir: str | Path | None = None,
    **settings: Any,
) -> Adapter:
    """Attaches a method to a model and freezes its backbone; changes the model in place.

    `method`: lora, adalora, dora, sora, melora, lora_pro, flat_lora, nora, cora or
    weight_decomposed. `budget`: `r8`, on average 8 components a matrix at the end, or a number of
    parameters such as `0.3M`. `steps`: the number of optimizer steps, which a method that prunes
    plans its schedule by. `config_dir`: a folder of your own beside conf/, as for `dora.train`,
    whose methods can then be attached too.

    `target`: the linears to adapt (nn.Linear, Conv1D of Transformers, and those of bitsandbytes): a
    regular expression for whole names, or a list of names or of their ends (`["q_proj", "v_proj"]`).
    Without it, all but the head's and, of a language model, the output's. `head`: names of modules
    that are trained whole. Without it, in a Transformers model all modules beside the backbone
    (classifier, score), but none in a language model; in any other model none.

    `seed`: of the components' start values, and of noise. `settings`: the method's own, as in
    conf/method/NAME.yaml. Raises UserError with every mistake that can be told at once.
    """
    choice = _chosen(method, config_dir, settings)
    problems = _problems(choice, steps, seed)
    try:
        wanted = Budget.parse(str(budget))
    except ValueError as e:
        problems.append(str(e))
    if problems:
        raise UserError(*problems)
    refuse_wrapped(model)
    modules = find_head(model, [head] if isinstance(head, str) else head)
    refuse_untrainable(model, modules)
    found = find_linears(model, modules, target)
    if problem := misread(model, modules, found):
        warnings.warn(f"save() will be refused: {problem}", stacklevel=2)
    run = RunInfo(steps or 0, seed)
    plan = _plan(choice, wanted, found, run)
    _freeze(model, found)
    guard = _attached(choice, model, plan, run)
    for name in modules:
        model.get_submodule(name).requires_grad_(True)
    for layer in guard.method.layers.values():  # drawn on the CPU
        layer.to(layer.base.weight.device)
        layer.train(model.training)
    guard.method.load(guard.state())
    arguments = _arguments(choice, steps, wanted, seed)
    return Adapter(model, guard, plan, steps or 0, modules, found, arguments)


def _attached(choice: MethodChoice, model: nn.Module, plan: Plan, run: RunInfo) -> Guard:
    """Returns the guarded method, whose layers are in the model now.

    Raises UserError if a method of one's own does something that a run of the suite refuses too,
    or if the method computes with weights that are quantised.
    """
    loaded = Loaded(choice.kind, model)
    try:
        guard = Guard(choice.kind(choice.settings, model, plan, run), model, loaded)
        guard.attached(plan)
        refuse_unwatched(guard.method)
    except UserError as e:
        raise UserError(*e.problems, "the model has been changed by now: load it anew") from e
    return guard


def unserved(kind: type[Method]) -> str | None:
    """Returns why a method works in no loop but the suite's; None if it works in any."""
    if kind.result != "adapter":
        return (
            f'leaves no adapter: it states result = "{kind.result}", and save() writes and merge() '
            "adds the factors of low-rank layers alone"
        )
    needs = ["clients"] if kind.federated else [m for m in _OWN_LOOP if overrides(kind, m)]
    if needs:
        return f"needs the suite's own loop for its {' and '.join(needs)}"
    return "has no budget" if kind.budget == "none" else None


def _moments_in_steps(kind: type[Method]) -> list[str]:
    """Returns the method's moments that may go by a step's share of the run's length."""
    return [moment for moment in _IN_STEPS if overrides(kind, moment)]


def _chosen(method: str, config_dir: str | Path | None, settings: dict[str, Any]) -> MethodChoice:
    """Returns the method with its settings. Raises UserError for others than there are."""
    if config_dir is not None:
        choice = method_of(method, config_dir)
    elif method in packaged_names():
        choice = packaged(method)
    else:
        raise UserError(
            f"method={method} is none of this suite's; {_working()} can be attached, and one of "
            "your own with config_dir=FOLDER, which holds method/NAME.yaml"
        )
    kind = choice.kind
    refuse_edited(kind)
    if reason := unserved(kind):
        folder = "" if config_dir is None else f"--config-dir={config_dir} "
        raise UserError(
            f"method={method} {reason} (python -m dora.run {folder}method={method}); {_working()} "
            "can be attached"
        )
    known = [field.name for field in fields(kind.settings_type) if field.name != "base_lr"]
    if unknown := [name for name in settings if name not in known]:
        rate = "; the learning rate is your optimizer's" if {"lr", "base_lr"} & {*unknown} else ""
        raise UserError(
            f"{method} has no setting {', '.join(unknown)}; it has {', '.join(known)}{rate}"
        )
    try:
        return changed(choice, **settings)
    except ValueError as e:  # OmegaConf's, whose first line names the value
        key = str(getattr(e, "full_key", "")).removeprefix("method.")
        given = f"{key}={settings[key]}" if key in settings else method
        rule = type_rule(e)
        why = f": {str(e).splitlines()[0]}" if rule is None else f" {rule}"
        raise UserError(f"{given}{why}") from e


def _working() -> str:
    """Lists the methods that can be attached, for a message; this loads all of them."""
    return ", ".join(name for name in packaged_names() if not unserved(packaged(name).kind))


def _arguments(choice: MethodChoice, steps: int | None, budget: Budget, seed: int) -> str:
    """Returns in words the arguments that training depends on; the optimizer has the rate."""
    found: list[tuple[str, object]] = []
    code = fingerprint(choice.kind)  # of a method of one's own
    if code or overrides(choice.kind, "noise"):  # which may draw in every step
        found.append(("seed", seed))
    if _moments_in_steps(choice.kind):
        found.append(("steps", steps))
    found.append(("budget", budget))
    found += [(k, v) for k, v in spelled(choice).items() if k not in ("name", "base_lr")]
    if code:
        found.append(("code", code[:12]))
    return ", ".join(f"{key}={value}" for key, value in found)


def _problems(choice: MethodChoice, steps: Any, seed: Any) -> list[str]:
    """Returns a message for each setting out of range, and for a length that is missing."""
    found = []
    if not is_whole(seed, 0):
        found.append(f"seed={seed!r} must be a whole number from 0")
    if steps is None and (moments := _moments_in_steps(choice.kind)):
        found.append(
            f"{choice.name} may plan its {' and '.join(moments)} by the run's length: give steps=, "
            "the number of optimizer steps"
        )
    elif steps is not None and not is_whole(steps, 1):
        found.append(f"steps={steps!r} must be a whole number from 1: of optimizer steps")
    else:
        found += choice.settings.problems(steps)
    sources = choice.kind.sources
    if sources and getattr(choice.settings, sources):
        found.append(f"{sources}= names runs of the suite, which none but its own runs can read")
    return [problem.replace("method.", "") for problem in found]


def _plan(choice: MethodChoice, budget: Budget, found: dict[str, nn.Module], run: RunInfo) -> Plan:
    """Returns the method's plan for these linears. Raises UserError where the budget does not fit.

    Each linear stands alone: that two of them read one input is known of the suite's own models.
    """
    bare = [(name, as_linear(module)) for name, module in found.items()]
    matrices = [Matrix(name, linear.in_features, linear.out_features) for name, linear in bare]
    try:
        return checked_plan(choice, budget, tuple(priced(m, choice.kind) for m in matrices), run)
    except ValueError as e:
        smallest = min(matrices, key=lambda m: m.full_rank)
        raise UserError(
            f"{str(e).replace('method.', '')} (the smallest is {smallest.name}, {smallest.d_out} x "
            f"{smallest.d_in}: target= can leave it out, head=['{smallest.name}'] trains it whole)"
        ) from e


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
