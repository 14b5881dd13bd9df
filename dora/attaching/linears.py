"""The linears of a model that are adapted, and the modules that are trained whole: its head."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dora.adapters.lowrank import LowRankLinear
from dora.errors import UserError

SHOWN = 5  # names in a message
# Classes of quantised linears, which may have subclasses.
_QUANTISED = ("bitsandbytes.nn.modules.Linear4bit", "bitsandbytes.nn.modules.Linear8bitLt")


def find_head(model: Any, given: Sequence[str] | None) -> list[str]:
    """Returns the names of the modules that are trained whole.

    `given`: their full names; None for a Transformers model's own head, that is every module
    beside its backbone (classifier, score, qa_outputs). A model with output embeddings (a language
    model's lm_head) has no such head, nor has a model that is none of Transformers'.
    """
    if given is None:
        backbone = getattr(model, "base_model", None)
        if not isinstance(backbone, nn.Module) or backbone is model or _output(model) is not None:
            return []
        beside = [(name, child) for name, child in model.named_children() if child is not backbone]
        return [name for name, child in beside if any(True for _ in child.parameters())]
    modules = dict(model.named_modules())
    if unknown := [name for name in given if name not in modules or not name]:
        raise UserError(
            f"head={list(given)}: this model has no module {', '.join(unknown)}; its modules begin "
            f"with {', '.join([name for name, _ in model.named_children()][:SHOWN])}"
        )
    # A module inside another one is trained with it; PEFT could not read it twice.
    inside = tuple(f"{name}." for name in given)
    return [name for name in dict.fromkeys(given) if not name.startswith(inside)]


def find_linears(
    model: nn.Module, head: Sequence[str], target: str | Sequence[str] | None
) -> dict[str, nn.Module]:
    """Returns the linears to adapt by their full names: nn.Linear, Conv1D, and quantised ones.

    `target`: None for all but the head's and a language model's output; a regular expression that
    must match a whole name; or names, of which each stands for itself and for all names that end
    in it (`q_proj`). These are PEFT's rules. Raises UserError where nothing is left, or where the
    model cannot be adapted.
    """
    _refuse_adapted(model)
    if is_linear(model):
        raise UserError(
            "this model is a single linear, and a layer has to be put in its place: put it into a "
            "module first, as torch.nn.Sequential(linear)"
        )
    inside = tuple(f"{name}." for name in head)
    every = {
        name: module
        for name, module in model.named_modules()
        if is_linear(module) and not f"{name}.".startswith(inside)
    }
    if not every:
        raise UserError(
            f"this {type(model).__name__} has no linear to adapt outside of its head: of all "
            "modules, nn.Linear, the Conv1D of Transformers and bitsandbytes' Linear4bit and "
            "Linear8bitLt can be adapted, other subclasses of nn.Linear cannot"
        )
    if target is None:
        output = _output(model)
        found = {name: module for name, module in every.items() if module is not output}
    else:
        found = {name: module for name, module in every.items() if _hit(name, target)}
    # One of several ends that is misspelt would leave its matrices out without a word.
    ends = [] if target is None or isinstance(target, str) else target
    idle = [end for end in ends if not any(_hit(name, [end]) for name in every)]
    if idle or not found:
        raise UserError(
            f"target={idle or target!r} names none of this model's {len(every)} linears "
            f"({', '.join(list(every)[:SHOWN])}, …): give a regular expression for whole names, or "
            "a list of names or of their ends"
        )
    _refuse_tied(model, found)
    devices = {str(p.device) for module in found.values() for p in module.parameters()}
    if len(devices) > 1:
        raise UserError(
            f"the linears to adapt lie on several devices ({', '.join(sorted(devices))}): a method "
            "compares components across matrices, so load the model on one device"
        )
    return found


def refuse_wrapped(model: Any) -> None:
    """Raises UserError if a wrapper stands around the model, whose names would not be the model's.

    An adapter saved by such names fits the wrapper alone.
    """
    parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    inner = "module" if parallel else "_orig_mod"  # torch.compile's name
    if inner in model._modules:
        raise UserError(
            f"this is a model in a {type(model).__name__}: attach to the model itself (model."
            f"{inner}), and wrap it afterwards"
        )


def refuse_untrainable(model: nn.Module, head: Sequence[str]) -> None:
    """Raises UserError if a head that is to be trained is quantised or in float16."""
    for name in head:
        module = model.get_submodule(name)
        if any(is_quantised(inner) for inner in module.modules()):
            raise UserError(
                f"{name} would be trained whole and is quantised: load the model with "
                f"llm_int8_skip_modules=['{name}'] in its BitsAndBytesConfig, which serves 4 bits "
                "too, or train no head with head=[]"
            )
        if any(p.dtype == torch.float16 for p in module.parameters()):
            raise UserError(
                f"{name} would be trained in float16, where AdamW diverges: load the model with "
                "dtype=torch.float32 or torch.bfloat16 (Transformers takes the type of the file), "
                "or train no head with head=[]"
            )


def is_linear(module: nn.Module) -> bool:
    """Says whether a layer of this suite can stand in the module's place."""
    if is_quantised(module):
        return True
    # No other subclasses: they may be read by their owner without being called, as the output of
    # nn.MultiheadAttention is. And no weight that a hook computes of other tensors in each pass
    # (weight_norm, pruning): it is no parameter.
    weight = module._parameters.get("weight")
    kind = type(module) is nn.Linear or is_conv1d(module)
    return kind and weight is not None and weight.is_floating_point()


def is_conv1d(module: nn.Module) -> bool:
    """Says whether the module is GPT-2's linear, whose weight is (d_in, d_out)."""
    return _name_of(type(module)) == "transformers.pytorch_utils.Conv1D"


def is_quantised(module: nn.Module) -> bool:
    """Says whether the module is a linear of bitsandbytes, whose weight is packed."""
    return any(_name_of(kind) in _QUANTISED for kind in type(module).__mro__)


def _name_of(kind: type) -> str:
    """Returns the full name of a class, by which it is known without an import of its library."""
    return f"{kind.__module__}.{kind.__name__}"


def as_linear(module: Any) -> nn.Linear:
    """Returns the module itself, or an nn.Linear on the memory of a Conv1D's weight and bias."""
    if not is_conv1d(module):
        return module
    d_in, d_out = module.weight.shape
    linear = nn.Linear(d_in, d_out, device="meta")
    linear.weight = nn.Parameter(module.weight.detach().t(), requires_grad=False)
    linear.bias = module.bias
    return linear


def put_back(original: Any, linear: nn.Linear) -> nn.Module:
    """Returns the module that `as_linear` made `linear` of, on the memory of its weight."""
    if original is not linear:
        # Not the memory of the start: the model may have been moved to another device since.
        original.weight = nn.Parameter(linear.weight.detach().t(), requires_grad=False)
        original.bias = linear.bias
    return original


def _output(model: Any) -> nn.Module | None:
    """Returns a Transformers model's output embeddings, None without any."""
    find = getattr(model, "get_output_embeddings", None)
    found = find() if callable(find) else None
    return found if isinstance(found, nn.Module) else None


def _hit(name: str, target: str | Sequence[str]) -> bool:
    if isinstance(target, str):
        try:
            return re.fullmatch(target, name) is not None
        except re.error as e:
            raise UserError(f"target={target!r} is no regular expression: {e}") from e
    return any(name == end or name.endswith(f".{end}") for end in target)


def _refuse_adapted(model: nn.Module) -> None:
    """Raises UserError if the model holds adapters of this suite or of PEFT."""
    if any(isinstance(module, LowRankLinear) for module in model.modules()):
        raise UserError("this model has an adapter attached: call its merge() first")
    if any(type(module).__module__.startswith("peft.") for module in model.modules()):
        raise UserError("this is a PEFT model: call merge_and_unload() first, or take its base")


def _names(model: nn.Module) -> dict[nn.Parameter, list[str]]:
    """Returns every name of each parameter: a tied one has several."""
    found: dict[nn.Parameter, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        found.setdefault(p, []).append(name)
    return found


def tied(model: nn.Module, head: Sequence[str]) -> tuple[str, str] | None:
    """Returns the names of a head's parameter inside and outside of the head; None without any."""
    inside = tuple(f"{name}." for name in head)
    for each in _names(model).values():
        own = [name for name in each if name.startswith(inside)]
        if own and len(own) < len(each):
            return own[0], next(name for name in each if name not in own)
    return None


def _refuse_tied(model: nn.Module, found: dict[str, nn.Module]) -> None:
    """Raises UserError if a linear's module or weight stands at another place of the model, too.

    The adapter would be at one of the two, and merging would change both.
    """
    names = _names(model)
    for name, module in found.items():
        weight = module.get_parameter("weight")
        others = [n for n in names[weight] if n != f"{name}.weight"]
        if others:
            raise UserError(
                f"the weight of {name} is {others[0]} too: a tied linear cannot be adapted; leave "
                "it out with target="
            )
