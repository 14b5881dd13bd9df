"""Gives a parameter another number of components: its data, and its moments in an optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn


def set_data(p: nn.Parameter, data: Tensor) -> None:
    """Puts `data`, of another shape, into the parameter, and deletes its gradient.

    The parameter stays the same object, so that optimizers' groups, the keys of their states and
    lists of parameters in a loop stay valid. Its entries lie in the order of its shape afterwards,
    as in a resumed run.
    """
    p.grad = None
    # While an earlier loss is alive, so is the graph's node that adds up this parameter's gradient.
    # The next forward pass would take up that node, which knows the old shape, and backward would
    # fail. PyTorch parts with the node if the type changes, but not if the shape does.
    other = torch.float16 if data.dtype == torch.float32 else torch.float32
    p.data = torch.empty(0, dtype=other, device=data.device)
    p.data = data.contiguous()


def lay_in_order(tensors: Iterable[Tensor]) -> None:
    """Lays the entries of each tensor in the order of its shape; it stays the same object.

    A checkpoint has no other order. Singular vectors, or a tensor drawn transposed, have another:
    products with them would add up in that order, and differ from a resumed run's in the last bits.
    """
    for t in tensors:
        if not t.is_contiguous():
            t.data = t.data.contiguous()


def cut_moments(
    optimizers: Iterable[torch.optim.Optimizer], p: nn.Parameter, axis: int, index: Tensor
) -> None:
    """Keeps the entries `index` along `axis` of what each optimizer holds of the parameter.

    Called before the parameter itself is cut. Moments in the parameter's shape are cut, and so are
    factored moments (Adafactor's) with an entry for each component. State of another form is
    deleted with a warning: the optimizer begins anew with this parameter.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, torch.optim.LBFGS):
            _begin_anew(optimizer, p)
            continue
        state = getattr(optimizer, "state", {}).get(p)  # hand-made ones may have none
        if state and not _cut(state, p, axis, index):
            del optimizer.state[p]
            _warn(optimizer, "those of the parameters that lost components")


def _begin_anew(optimizer: torch.optim.LBFGS, p: nn.Parameter) -> None:
    """Deletes what L-BFGS holds, which it keeps of all parameters in one row."""
    if any(p is held for held in optimizer.param_groups[0]["params"]):
        if optimizer.state:
            optimizer.state.clear()
            _warn(optimizer, "all of them")
        optimizer._numel_cache = None  # it counts all entries once


def _warn(optimizer: torch.optim.Optimizer, which: str) -> None:
    """Warns that moments are lost."""
    warnings.warn(
        f"{type(optimizer).__name__} keeps moments in a form that components cannot be taken out "
        f"of: {which} begin anew",
        stacklevel=3,
    )


def forget(optimizers: Iterable[torch.optim.Optimizer], p: nn.Parameter) -> None:
    """Deletes what each optimizer holds of the parameter."""
    for optimizer in optimizers:
        if isinstance(optimizer, torch.optim.LBFGS):
            _begin_anew(optimizer, p)
        getattr(optimizer, "state", {}).pop(p, None)


def _cut(state: MutableMapping[str, Any], p: nn.Parameter, axis: int, index: Tensor) -> bool:
    """Cuts all tensors of a parameter's state; returns False, with nothing cut, if one cannot be."""
    found = {}
    for key, held in state.items():
        # Scalars count steps; a tensor without an axis of components is shared by all of them.
        if not isinstance(held, Tensor) or held.dim() == 0 or _shared(held, p, axis):
            continue
        at = _axis_in(held, p, axis)
        if at is None or not held.is_floating_point():  # 8-bit moments share scales over blocks
            return False
        found[key] = held.index_select(at, index.to(held.device))
    state.update(found)
    return True


def _shared(held: Tensor, p: nn.Parameter, axis: int) -> bool:
    """Says whether a tensor of a state has no entries of single components.

    `(1, d)` and `(d,)` beside p of shape (r, d): a mean over components, as Adafactor has it.
    """
    if held.dim() == p.dim():
        return held.shape != p.shape and held.shape[axis] == 1 != p.shape[axis]
    rest = [size for at, size in enumerate(p.shape) if at != axis]
    return list(held.shape) == rest and p.shape[axis] not in held.shape


def _axis_in(held: Tensor, p: nn.Parameter, axis: int) -> int | None:
    """Returns the axis of a state's tensor along which components lie; None if it is not known."""
    r = p.shape[axis]
    # Either the parameter's own shape, or a mean over its other axis: (r, 1), or (r,) without it.
    alike = held.dim() == p.dim() and all(
        size == own if at == axis else size in (own, 1)
        for at, (size, own) in enumerate(zip(held.shape, p.shape, strict=True))
    )
    if alike:
        return axis
    unlike_rest = all(size != r for at, size in enumerate(p.shape) if at != axis)
    return 0 if p.dim() == 2 and held.shape == (r,) and unlike_rest else None
