"""An adapter's state inside the model's own state_dict, so that any checkpoint of the model has it.

The Transformers Trainer, accelerate, Lightning and plain loops all save and load a model by its
state_dict. It then also holds the number of steps and the method's state, and loading one takes up
other ranks than the model's present ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dora.adapters.lowrank import LowRankLinear
from dora.adapters.resizing import set_data
from dora.attaching.moments import Moments
from dora.errors import UserError
from dora.methods.base import Method, overrides

_PREFIX = "adapter_state."
_FACTS = ("step", "made", "arguments", "begun")
State = dict[str, Tensor]


def add_hooks(moments: Moments, arguments: str) -> list[RemovableHandle]:
    """Has the model's state_dict hold the adapter's state; returns the handles of the hooks.

    `arguments`: in words, the arguments of `attach` on which further training depends.
    """
    # Partial functions, not closures: a deep copy of the model copies them with its adapter.
    handles = [
        moments.model.register_state_dict_post_hook(partial(_add, moments, arguments)),
        moments.model.register_load_state_dict_pre_hook(partial(_load, moments, arguments)),
    ]
    for layer in moments.method.layers.values():
        layer.register_load_state_dict_pre_hook(_take_up_ranks)
    return handles


def state_of(moments: Moments, arguments: str, prefix: str = "") -> State:
    """Returns tensors that hold the number of steps, facts on the adapter, and the method's state.

    `prefix`: begins their names.
    """
    method = moments.method
    own = {
        "step": torch.tensor(moments.taken, device="cpu"),
        "made": _as_tensor(_made(method)),
        "arguments": _as_tensor(arguments),
        **{_beside_facts(name): t for name, t in method.state().items()},
    }
    if overrides(type(method), "begin"):  # its start values come after `attach`, or never
        own["begun"] = torch.tensor(moments.begun, device="cpu")
    return {f"{prefix}{_PREFIX}{name}": t for name, t in own.items()}


def _beside_facts(name: str) -> str:
    """Returns the name of an entry of the method's state, changed where it is one of the facts'."""
    return f"method.{name}" if name in _FACTS else name


def _as_tensor(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")


def _made(method: Method) -> str:
    """Returns in words the method and the facts by which its components make up an update."""
    settings = getattr(method, "settings", None)
    facts = {name: getattr(settings, name, None) for name in method.layout}
    scales = sorted({layer.scale for layer in method.layers.values()})
    facts["scale"] = scales[0] if len(scales) == 1 else scales
    return f"{method.title} with {', '.join(f'{name}={value}' for name, value in facts.items())}"


def split(state: Mapping[str, Tensor], prefix: str = "") -> tuple[State, State]:
    """Returns the tensors of the model, and those of `state_of` without their prefix."""
    start = f"{prefix}{_PREFIX}"
    rest = {name: t for name, t in state.items() if not name.startswith(start)}
    return rest, {n.removeprefix(start): t for n, t in state.items() if n.startswith(start)}


def refuse_other_names(held: State, there: State, method: Method) -> None:
    """Raises UserError unless the tensors of a state have the names of those that are there."""
    # A method that renews its components keeps more of them later than at the start.
    kept = {f"{name}.{k}" for name in method.layers for k in ("kept_A", "kept_B")}
    if wrong := sorted((there.keys() ^ held.keys()) - kept):
        raise UserError(f"this state is of another model, method or target: {', '.join(wrong[:3])}")


def check(method: Method, arguments: str, own: State) -> None:
    """Raises UserError unless a state, as `state_of` gives it, is of an adapter attached alike."""
    if "step" not in own:
        raise UserError(
            "this state holds tensors of the model alone: save adapter.state_dict() or "
            "model.state_dict(), which hold the adapter's steps and scores too"
        )
    # First the components' meaning, then the arguments, which change only how training goes on.
    for name, ours in (("made", _made(method)), ("arguments", arguments)):
        if name not in own:
            raise UserError(
                f"this state lacks {name!r}, which says how its adapter was attached: it is incomplete, or "
                "an earlier version saved it, which can load it"
            )
        theirs = bytes(own[name].tolist()).decode()
        if theirs != ours:
            raise UserError(
                f"this state is of {theirs}; attached is {ours}: attach alike, then load it"
            )


def take_up(moments: Moments, own: State) -> None:
    """Takes up the tensors of `state_of`, by the names that `split` gives them."""
    moments.take_up(int(own["step"]), bool(own.get("begun", True)))
    rest = {name: t for name, t in own.items() if name not in _FACTS}
    theirs = {_beside_facts(name): name for name in _FACTS}
    moments.method.load({theirs.get(name, name): t for name, t in rest.items()})


def _add(
    moments: Moments, arguments: str, module: nn.Module, state: State, prefix: str, metadata: Any
) -> None:
    state.update(state_of(moments, arguments, prefix))


def _load(
    moments: Moments,
    arguments: str,
    module: nn.Module,
    state: State,
    prefix: str,
    metadata: Any,
    strict: bool,
    missing: list[str],
    *rest: Any,
) -> None:
    _, own = split(state, prefix)
    for name in own:
        del state[f"{prefix}{_PREFIX}{name}"]
    if own:
        check(moments.method, arguments, own)
        take_up(moments, own)
    else:  # a state of the bare model; an error where load_state_dict is strict
        missing.append(f"{prefix}{_PREFIX}step")


@torch.no_grad()
def _take_up_ranks(layer: nn.Module, state: State, prefix: str, *rest: Any) -> None:
    """Gives a layer's factors the ranks that a state_dict has, before it is loaded into them."""
    assert isinstance(layer, LowRankLinear)
    for name in ("kept_A", "kept_B"):  # of a renewal since the start
        if getattr(layer, name) is None and (stored := state.get(f"{prefix}{name}")) is not None:
            setattr(layer, name, torch.empty_like(stored, device=layer.weight.device))
    for name, p in layer.factors().items():
        stored = state.get(f"{prefix}{name}")
        # The number of axes must be equal: anything else is for load_state_dict to refuse.
        if stored is not None and stored.dim() == p.dim() and stored.shape != p.shape:
            set_data(p, p.new_zeros(stored.shape))
