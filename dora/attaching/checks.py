"""Checks that a training loop uses an attached adapter as it must; mistakes are told at once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dora.attaching.linears import SHOWN
from dora.attaching.watch import StepWatch
from dora.errors import UserError
from dora.methods.base import Method, moved_by
from dora.plain import first_few


def refuse_unheld(watch: StepWatch, model: nn.Module) -> None:
    """Raises UserError where this model's optimizer steps and never held a component."""
    if watch.passed_by(model):
        raise UserError(
            "the optimizer does not hold the adapter's parameters, which would never be trained: "
            "make it after attach, from adapter.parameters() or adapter.groups(lr)"
        )


def refuse_unwatched(method: Method) -> None:
    """Raises UserError if the method moves all of its factors itself, as LoRA-Pro's mode=full.

    A step is noticed by the optimizer that holds one of them.
    """
    own = set(moved_by(method))
    factors = [p for layer in method.layers.values() for p in layer.factors().values()]
    if own.issuperset(p for p in factors if p.requires_grad):
        raise UserError(
            f"{method.title} moves all of its factors itself with these settings, so that no optimizer "
            "holds any, and none tells of a step: let an optimizer hold them (LoRA-Pro: "
            "mode=efficient), or train in the suite's own loop (python -m dora.run)"
        )


def refuse_partial_gradients(method: Method) -> None:
    """Raises UserError where an optimizer steps before all gradients are there."""
    raise UserError(
        f"{method.title} adjusts gradients before the optimizer's step, and this optimizer steps "
        "before all of them are there, by a closure or within backward(): call backward(), then "
        "optimizer.step() without a closure (in Lightning: automatic_optimization=False and the "
        "optimizer of self.optimizers(use_pl_optimizer=False))"
    )


def refuse_replica(method: Method, layer: nn.Module) -> None:
    """Raises UserError for a layer of nn.DataParallel's, which are copies made before a pass."""
    if getattr(layer, "_is_replica", False):
        raise UserError(
            f"{method.title} draws noise for its layers, which the copies that nn.DataParallel makes "
            "would not have: train on one device, or with DistributedDataParallel"
        )


def refuse_untold(method: Method, optimizer: Any) -> None:
    """Raises UserError where nothing tells of a step before which the method acts."""
    raise UserError(
        f"{method.title} adjusts gradients before the optimizer's step, and nothing tells of one by a "
        f"{type(optimizer).__name__}: use a torch.optim.Optimizer"
    )


def refuse_loss_without_term(method: Method, taken: int, asked: bool) -> None:
    """Raises UserError where the method has a term in the loss that was never `asked` for."""
    if not asked and method.penalty(taken + 1) is not None:
        raise UserError(
            f"{method.title} has a term in the loss, and it was not asked for: add "
            "adapter.penalty() to the loss, or attach with its weight set to 0"
        )


def refuse_cast(attached: torch.dtype, now: torch.dtype) -> None:
    """Raises UserError where the components are in another type than they were attached in."""
    if now != attached:
        raise UserError(
            f"the components were attached in {attached} and are in {now} now: "
            "cast the model first and attach then; they stay in float32 beside a backbone in 16 bits"
        )


def refuse_mixed_groups(method: Method, optimizers: Sequence[Any]) -> None:
    """Raises UserError where an optimizer's group mixes parameters of several rates.

    No optimizer may hold those that the method moves itself.
    """
    groups = [set(group["params"]) for o in optimizers for group in getattr(o, "param_groups", [])]
    own = [set(group.parameters) for group in method.parameter_groups() if not group.by_method]
    apart = [set[nn.Parameter]().union(*own), *own]
    mixed = any(g & mine and g - mine for g in groups for mine in apart)
    moved = set(moved_by(method))
    if mixed or any(g & moved for g in groups):
        raise UserError(
            f"{method.title} states rates or decays of its own for some parameters, or "
            "moves them itself: make the optimizer from adapter.groups(lr); in the Transformers "
            "Trainer pass optimizers=(optimizer, None)"
        )


def refuse_removal_in_several_processes(method: Method) -> None:
    """Raises UserError where shapes would change that processes share gradients by."""
    removes = getattr(getattr(method, "settings", None), "remove", False)
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if removes and several and torch.distributed.get_world_size() > 1:
        raise UserError(
            "several processes share gradients by shapes that are fixed when training begins: "
            "attach with remove=False, which masks components instead of removing them"
        )


def warn_of_unused(method: Method, trained: Sequence[nn.Parameter], step: int) -> None:
    """Warns of layers that got no gradient from the loss of a step, micro-batches included.

    `trained`: what an optimizer trains, the head included. Where none of it has a gradient, a loop
    has cleared them before the adapter's step, and they tell nothing.
    """
    if all(p.grad is None for p in trained):
        return
    # Every factor of a layer that is called has a gradient, be it 0. In one that is not, a penalty
    # gives some of them one: AdaLoRA's and DoRA's A and B, but not g; SoRA's g, but not A and B.
    unused = [
        name
        for name, layer in method.layers.items()
        if layer.rank and any(p.grad is None and p.requires_grad for p in layer.factors().values())
    ]
    if not unused:
        return
    # Not refused: LayerDrop skips layers at random, and a batch may reach no row of an expert's.
    warnings.warn(
        f"no gradient reached the components of {first_few(unused, SHOWN)} in step {step}: "
        "a layer on which the loss never depends takes its part of the budget for nothing, so leave "
        "it out with target=, which names the layers to adapt; one that this step alone has skipped "
        "(LayerDrop, experts) may stay",
        stacklevel=5,  # the caller of adapter.step()
    )


def refuse_cleared_gradients(
    method: Method, parameters: Sequence[nn.Parameter], first: bool
) -> None:
    """Raises UserError where the method reads gradients and they are gone.

    In the `first` step they are gone where all are 0, too: zero_grad(set_to_none=False) leaves
    that, and later it may be right.
    """
    if not method.reads_gradients:
        return
    # Gates that died leave empty factors, which get no gradient.
    gradients = [p.grad for p in parameters if p.numel()]
    there = [gradient for gradient in gradients if gradient is not None]
    cleared = not there or (first and not any(bool(g.any()) for g in there))
    if gradients and cleared:
        raise UserError(
            f"{method.title} reads gradients, and they are cleared already: call "
            "adapter.step() between optimizer.step() and zero_grad()"
        )


def refuse_unbounded_gradients(
    method: Method, by_method: Sequence[nn.Parameter], step: int
) -> None:
    """Raises FloatingPointError where a gradient that the method steps by itself is not finite."""
    if not all(p.grad is None or bool(p.grad.isfinite().all()) for p in by_method):
        raise FloatingPointError(
            f"a gradient of {method.title}'s is not finite in step {step}: "
            "training has diverged, or a gradient scaler, which does not know it, skipped a "
            "step: train in bf16 or fp32"
        )
