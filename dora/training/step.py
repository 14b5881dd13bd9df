"""One optimizer step, from the batch to cleared gradients.

The code here is in the order of a step:

rate → batch → noise → forward (bf16 by autocast where asked) → task loss + penalty → backward → sum
over processes → adjust gradients → clip → adjust clipped gradients → optimizer → the method's own
update → after step (gradients still there) → apply the change → clear gradients

Learning rate, batch and dropout are functions of the step, so a checkpoint is tensors and an
integer, and evaluating more or less often does not change training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dora.adapters import changes, result
from dora.adapters.changes import Change, Mask
from dora.adapters.lowrank import end_noise
from dora.adapters.resizing import lay_in_order
from dora.backbones.architectures import architecture_of
from dora.backbones.packing import Layout
from dora.configuration.config import Config
from dora.data.tasks import Task
from dora.data.tokens import Tokens
from dora.errors import Diverged
from dora.guarding.guard import Guard
from dora.methods.base import Method, overrides
from dora.methods.groups import parameter_groups
from dora.methods.seeds import seed_of
from dora.preparing.cuda_graphs import not_recordable
from dora.training.course import Course
from dora.training.finite import FiniteWatch, not_finite
from dora.training.forward import Forward, task_loss
from dora.training.graphs import Graphs
from dora.training.processes import World


@dataclass
class Setup:
    """Everything that a training loop needs.

    `course`: each step's rows and rate. `scored`: the splits evaluated during training; the first
    one selects the best weights. `reported`: the splits whose predictions are kept at the end.
    `head`: names of the head's parameters.
    """

    config: Config
    model: nn.Module
    head: list[str]
    guard: Guard
    lr: float
    train: Tokens
    course: Course
    scored: dict[str, Tokens]
    reported: dict[str, Tokens]
    world: World

    @property
    def method(self) -> Method:
        """The method that is trained."""
        return self.guard.method

    @property
    def task(self) -> Task:
        """The GLUE task of the configuration."""
        return self.config.glue_task

    @property
    def total_steps(self) -> int:
        """The run's length in optimizer steps."""
        return self.course.total_steps


class Stepper:
    """Takes optimizer steps: holds the optimizer, and watches for values that are not finite.

    `log`: receives the event of each new allocation, for ranks.jsonl. `observe`: called with the
    name of each moment of a step once it has passed; tests record the order with it.
    """

    def __init__(self, setup: Setup, log: Callable[[dict[str, Any]], None]) -> None:
        self.setup = setup
        self.log = log
        self.observe: Callable[[str], Any] = lambda moment: None
        lay_in_order(result.tensors_of(setup.model, setup.method.frozen()).values())
        self.parameters = {n: p for n, p in setup.model.named_parameters() if p.requires_grad}
        self.forward = Forward(setup.model, setup.config, setup.world.device)
        c = setup.config
        groups = parameter_groups(
            setup.model,
            set(setup.head),
            setup.lr,
            c.head_lr,
            c.weight_decay,
            c.decay_all,
            setup.method.parameter_groups(),
        )
        # Fused: one call for all tensors of a group. For a few hundred small factors, one call each
        # would take longer to begin than to compute.
        self.optimizer = torch.optim.AdamW(groups, lr=setup.lr, fused=True)
        self.watch = FiniteWatch(setup.world.device)
        # The run's learning rate in the last step, which need not be any group's: SoRA's gates and
        # LoRA-Pro's factors are in none, and the head may have a rate of its own.
        self.rate = 0.0
        # The last step's gradient norm before clipping, on the device: to read it is to wait.
        self.gradient_norm = torch.zeros((), device=setup.world.device)
        # Asked once: going through all layers takes the host a while.
        self.noisy = overrides(type(setup.method), "noise")
        self.graphs = Graphs(list(self.parameters.values())) if self._uses_graphs() else None
        setup.guard.watch(self.parameters)

    def _uses_graphs(self) -> bool:
        """Says whether steps are recorded as CUDA graphs."""
        s, c = self.setup, self.setup.config
        asked = c.cuda_graphs
        if asked is None:
            model: Any = s.model.config
            asked = architecture_of(model.model_type).attention == "plain"
        return bool(asked) and not_recordable(c, s.world.device.type == "cuda") is None

    def take(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Takes step `step` (from 1); returns (mean task loss over the batch, penalty or None).

        The loss is this process's share of the mean. Both stay on the device: reading them would
        wait for it. Raises Diverged if the method meets values that are not finite.
        """
        try:
            return self._take(step)
        # Scores, or a matrix to decompose, are not finite. Loss and gradients are read only now:
        # reading them waits for the device.
        except (FloatingPointError, torch.linalg.LinAlgError) as e:
            self.check_finite(step)  # a loss that was not finite before is the cause
            if isinstance(e, FloatingPointError):
                raise Diverged(f"diverged: {e} at step {step}; {self._remedy}") from e
            raise

    def _take(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Takes the step for `take`, which explains the errors of the method's moments."""
        s = self.setup
        self._set_rate(step)
        if not s.model.training:  # going through all modules takes the host a while
            s.model.train()
        if s.guard.own:  # methods of the suite draw from generators of their own alone
            self._seed(step, "noise")
        s.method.noise(step)
        loss, penalty = self._backward(step)
        if self.noisy:
            end_noise(s.method.layers.values())
        self.observe("backward")
        # Methods see gradients summed over processes, so that every process decides alike.
        s.world.sum_gradients(self.parameters.values())
        if s.guard.own:  # seeded anew, since processes have drawn other dropout by now
            self._seed(step, "after")
        s.method.adjust_gradients(step)
        self.gradient_norm = self._clip()
        # Before the method's next moments: if one fails, this step's loss may be the cause.
        self.watch.see(step, loss, penalty, self.gradient_norm)
        s.method.adjust_clipped_gradients(step)
        s.guard.check(step)
        self.optimizer.step()
        s.method.update(step, self.rate)
        self.observe("optimizer")
        # Before gradients are cleared: AdaLoRA's scores need them.
        change = s.guard.after_step(step)
        if change is not None:
            self.apply(change, step)
        # Not by the optimizer's zero_grad: a method may move tensors that it does not know.
        for p in self.parameters.values():
            p.grad = None
        self.observe("clear")
        return loss, penalty

    def _seed(self, step: int, *parts: object) -> None:
        """Seeds PyTorch's default generator, so that what is drawn next is a function of the step.

        A resumed run draws what an uninterrupted one would, with no generator state saved.
        """
        seed = seed_of(self.setup.config.seed, step, *parts)
        if self.setup.world.device.type == "cpu":
            # torch.manual_seed also notes the seed for GPUs, which takes as long as 80 such calls.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def _set_rate(self, step: int) -> None:
        """Sets `rate`, and every group's learning rate: its peak times the method's factor."""
        s = self.setup
        usual = s.course.share(step)
        factor = s.guard.learning_rate(step, usual)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.rate = s.lr * factor

    def _backward(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Runs forward and backward over this process's micro-batches; returns loss and penalty."""
        s, world = self.setup, self.setup.world
        batch = s.course.rows(step)
        loss = torch.zeros((), device=world.device)
        penalty = None
        # By process first: each then has equally many rows in as many micro-batches as it is told.
        mine = batch[world.rank :: world.size]
        for part, rows in enumerate(np.array_split(mine, s.config.grad_accum)):
            self._seed(step, part, world.rank)  # dropout draws
            inputs, layout = self.forward.inputs(s.train, rows) if len(rows) else ({}, None)
            if inputs:
                inputs["labels"] = self.forward.to_device(np.asarray(s.train.label)[rows])
            with_penalty = step if part == 0 else None
            compute = partial(self._pass, layout=layout, rows=len(batch), step=with_penalty)
            if self.graphs is None or not inputs:
                own, term = compute(inputs)
            else:
                phase = len(batch), step > s.method.ranks_final_at
                own, term = self.graphs.run(inputs, phase, compute)
            loss += own
            if part == 0:
                penalty = term
        return loss, penalty

    def _pass(
        self, inputs: dict[str, Tensor], layout: Layout | None, rows: int, step: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Runs forward and backward of a micro-batch; returns its share of the loss, and penalty.

        `rows`: of the whole batch. `step`: None for a micro-batch that leaves the penalty out.
        """
        s, world = self.setup, self.setup.world
        objective, penalty = None, None
        loss = torch.zeros((), device=world.device)
        if inputs:
            labels = inputs["labels"]
            given = {name: x for name, x in inputs.items() if name != "labels"}
            # Divided by the whole batch, not by this process's rows: shards may be unequal, and
            # gradients are summed over processes, not averaged.
            objective = task_loss(s.task, self.forward.logits(given, layout), labels) / rows
            loss = objective.detach()
        if step is not None and (term := s.guard.penalty(step)) is not None:
            penalty = term.detach()
            share = term / world.size  # the sum over processes counts the penalty once a step
            objective = share if objective is None else objective + share
        if objective is not None:
            objective.backward()
        return loss, penalty

    def _clip(self) -> Tensor:
        """Clips the gradients if `clip` is above 0; returns their norm before that, a scalar."""
        limit = self.setup.config.clip
        if not limit:
            # Computed even so: `FiniteWatch` finds NaN and infinity in gradients by their norm.
            grads = [p.grad for p in self.parameters.values() if p.grad is not None]
            return nn.utils.get_total_norm(grads)
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        self.observe("clip")
        return norm

    def apply(self, change: Change, step: int) -> None:
        """Applies a method's change to weights and moments, and logs a new allocation."""
        layers = self.setup.method.layers
        changes.apply(change, layers.values(), self.optimizer)
        self.setup.guard.note()
        # A final mask is applied again in every step, since the optimizer moves g; one line in
        # ranks.jsonl is enough for it.
        if not isinstance(change, Mask) or change.new:
            ranks = changes.ranks_after(change, layers)
            event = {"step": step, "total": sum(ranks.values()), "ranks": ranks}
            self.log({**event, **changes.noted(change)})
        self.observe("applied")

    @property
    def _remedy(self) -> str:
        return f"lower lr (now {self.setup.lr:g})"

    def sound(self) -> bool:
        """Says whether all values this process knows of are finite.

        Unlike `check_finite` it exchanges nothing, so one process may call it alone.
        """
        return self.watch.found() is None and not_finite(self.parameters) is None

    def check_finite(self, step: int) -> None:
        """Raises Diverged if any loss, penalty, gradient so far or any weight is not finite.

        `step`: the one that was taken last, or is being taken. All processes must call it at the
        same step, since it gathers their findings.
        """
        firsts = self.setup.world.gather(self.watch.found())
        # The earliest step wins, then the earliest term in the order of FiniteWatch.NAMES: a loss
        # that is NaN makes the gradients NaN too, and the message should name the cause.
        if found := [first for first in firsts if first is not None]:
            first, which = min(found)
            raise Diverged(
                f"diverged: {FiniteWatch.NAMES[which]} not finite at step {first}; {self._remedy}"
            )
        # There are gradients within a step alone: `watch` has not seen them where adjusting them fails.
        gradients = {n: p.grad for n, p in self.parameters.items() if p.grad is not None}
        if not_finite(gradients) is not None:
            raise Diverged(f"diverged: the gradients not finite at step {step}; {self._remedy}")
        if (weights := not_finite(self.parameters)) is not None:
            raise Diverged(
                f"diverged: weights not finite after step {step}: {weights}; {self._remedy}"
            )
