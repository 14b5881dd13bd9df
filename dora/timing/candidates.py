"""The benchmark's candidates: the bare backbone, and our methods in the real training loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from dora.adapters.budget import Budget, Matrix
from dora.adapters.plan import Plan
from dora.backbones.architectures import KINDS
from dora.backbones.attention import speed_up
from dora.backbones.backbone import find_linears
from dora.configuration.config import Config
from dora.configuration.groups import TaskConfig
from dora.configuration.method_choice import MethodChoice, packaged
from dora.data.tokens import Tokens
from dora.guarding.guard import Guard
from dora.methods.base import Method, RunInfo
from dora.methods.released import RELEASED
from dora.timing.libraries import PEFTS, peft_contender
from dora.timing.products import products
from dora.timing.setting import (
    BUDGET,
    START,
    TOTAL,
    Contender,
    Setting,
    Times,
    backbone,
    in_precision,
    rows,
    timed,
)
from dora.training.course import Course
from dora.training.evaluation import rows_at_once
from dora.training.lines import Lines
from dora.training.loop import Loop
from dora.training.processes import World
from dora.training.step import Setup

# Before, between and after the steps that allocate: ranks, and so costs, differ.
PHASES = ("before", "allocating", "after")
OURS = ("full", "lora", *(f"{m} {phase}" for m in ("adalora", "dora") for phase in PHASES))
# "forward" is the bare backbone's, over the batches that "evaluation" predicts with an adapter.
CONTENDERS = ("products", "floor", "our floor", "forward", "evaluation", *OURS, *PEFTS)
# The methods that are not timed beside OURS: XGBLoRA, whose backward pass ends at the lowest layer
# that a round draws, and the federated ones, whose steps are other methods'.
UNTIMED = {"xgblora", "fedit", "ffa_lora", "lora_fair"}
# Other methods, where their steps cost most: SoRA before its cut, a chain in its last link.
OTHERS = tuple(
    "chain after" if name == "chain" else name
    for name in RELEASED
    if name not in UNTIMED | {ours.split()[0] for ours in OURS}
)
# By torch.compile, before any allocation: a rank that changes compiles the graph anew.
COMPILED = ("full compiled", "lora compiled", "dora compiled")

# The facts that a method is told of the run that the timed steps are taken from.
RUN = RunInfo(TOTAL, seed=0)


class Floor(Method):
    """Attaches no adapter, but lets the gradient pass the whole backbone.

    The embeddings' output asks for a gradient, as the input of the first adapter does; without it
    autograd would stop at the head.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers: dict[str, Any] = {}
        embeddings: Any = getattr(model, str(model.base_model_prefix)).embeddings
        embeddings.register_forward_hook(lambda module, given, out: out.requires_grad_())


def contender(s: Setting, name: str) -> Contender:
    """Returns one of CONTENDERS or COMPILED, ready to be timed; see `in_precision` for names."""
    s, name = in_precision(s, name)
    if name in PEFTS:
        return peft_contender(s, name)
    if name == "products":
        return products(s)
    if name in ("forward", "evaluation"):
        return _evaluation(s, name)
    loop, at = loop_of(s, name)

    def step() -> None:
        nonlocal at
        at += 1
        loop.train_step(at)

    return timed(s, step)


def _evaluation(s: Setting, name: str) -> Contender:
    """Returns the candidate "forward" or "evaluation", which predicts as many rows as a step has.

    An evaluation's batches hold more rows than a step's: all four batches of `rows` are predicted
    together, and the time is divided by four.
    """
    loop, _ = loop_of(s, "lora" if name == "evaluation" else "floor")
    tokens = loop.setup.train
    if name == "evaluation":
        predict: Callable[[], Any] = partial(loop.predict, tokens)
    else:
        predict = partial(_forward, s, loop.setup.model.eval(), tokens)
    batches = len(tokens) // s.batch
    run = timed(s, predict)

    def shared(count: int) -> Times:
        times = run(count)
        return Times(times.wall / batches, times.cpu / batches)

    return shared


@torch.inference_mode()
def _forward(s: Setting, model: Any, tokens: Tokens) -> None:
    """Computes logits in batches as large as an evaluation's, without anything around it."""
    device = torch.device(s.device)
    each = rows_at_once(device)
    for part in np.split(np.arange(len(tokens)), range(each, len(tokens), each)):
        batch = {k: torch.from_numpy(v).to(device) for k, v in tokens.batch(part).items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=s.precision == "bf16"):
            model(**batch)


def loop_of(s: Setting, name: str) -> tuple[Loop, int]:
    """Returns the real loop, and a step of the phase of the run that `name` ends with."""
    model = backbone(s)
    method_name, _, phase = name.partition(" ")
    chosen = packaged("lora")
    method: Method
    plan: Plan | None = None
    if name.endswith("floor"):
        method = Floor(model)
    else:
        chosen = packaged(method_name)
        # Only a method with adapters drops out their input.
        if hasattr(chosen.settings, "dropout"):
            chosen.settings.dropout = s.dropout
        if phase == "allocating":  # in every step; AdaLoRA and DoRA each read one of the two names
            chosen.settings.mask_interval = chosen.settings.prune_interval = 1
        plan = _plan(chosen, find_linears(model.config.to_dict(), KINDS))
        method = chosen.kind(chosen.settings, model, plan, RUN)
    model.to(s.device)
    if name != "floor":
        speed_up(model, torch.device(s.device))
    if phase == "compiled":
        model.compile(dynamic=True)  # as `dora.training.build` does
    method.load(method.state())  # brings the method's own tensors to the device
    loop = _loop(s, model, method, chosen)
    loop.train_step(1)  # the optimizer's moments exist from here on
    # 100: past the warm-up of 60 steps, before the first that allocates.
    at = {"allocating": TOTAL // 5, "after": method.ranks_final_at}.get(phase, 100)
    if phase == "after":
        loop.train_step(method.ranks_final_at)  # prunes down to the budget
    return loop, at


def _plan(chosen: MethodChoice, matrices: tuple[Matrix, ...]) -> Plan | None:
    """Returns the method's plan: START components a matrix in the first steps."""
    if not chosen.has_budget:
        return None
    plan = chosen.kind.plan(chosen.settings, Budget.parse(BUDGET), matrices, RUN)
    if plan is not None and plan.start == plan.end:  # it keeps its ranks
        plan = chosen.kind.plan(chosen.settings, Budget.parse(f"r{START}"), matrices, RUN)
    return plan


def _loop(s: Setting, model: Any, method: Method, chosen: MethodChoice) -> Loop:
    """Returns the training loop as a run builds it, without a record and without evaluations."""
    backbone_prefix = f"{model.base_model_prefix}."
    head = [n for n, _ in model.named_parameters() if not n.startswith(backbone_prefix)]
    config = Config(
        task=TaskConfig("sst2"), method=chosen, batch_size=s.batch, precision=s.precision
    )
    train = rows(s)
    setup = Setup(
        config=config,
        model=model,
        head=head,
        guard=Guard(method, model),
        lr=1e-4,
        train=train,
        course=Course(config, train.lengths, TOTAL),
        scored={},
        reported={},
        world=World(0, 1, torch.device(s.device)),
    )
    return Loop(setup, None, Lines(None))
