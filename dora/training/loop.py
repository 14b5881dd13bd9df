"""The training loop.

One step, in this order: forward → task loss + method.penalty → backward → sum over processes → clip →
optimizer → method.after_step (gradients still there) → apply what it decided → clear gradients → log,
evaluate, checkpoint.

Learning rate, batch, dropout and budget are functions of the step, so that a checkpoint is tensors and an
integer, and evaluating more or less often does not change training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dora.adapters import lowrank
from dora.adapters.budget import Plan
from dora.backbones.attention import attention_mask
from dora.config import Config
from dora.data.tasks import Task
from dora.data.tokens import Tokens, order
from dora.errors import RunFailed, Stopped
from dora.methods.protocol import Allocation, Method
from dora.process.signals import StopSignals
from dora.records.record import Record
from dora.training import checkpoint, evaluation, processes
from dora.training.finite import Watch, not_finite
from dora.training.processes import World
from dora.training.recipe import lr_factor, parameter_groups, step_seed, task_loss

LOG_EVERY = 10  # steps between training lines; reading the loss waits for the device
CHECKPOINT_S = 300.0


@dataclass
class Setup:
    """Everything a loop needs. `scored`: the splits evaluated during training, the one that selects first;
    `reported`: those whose predictions are kept at the end."""

    config: Config
    task: Task
    model: nn.Module
    head: list[str]
    method: Method
    plan: Plan | None
    lr: float
    train: Tokens
    scored: dict[str, Tokens]
    reported: dict[str, Tokens]
    total_steps: int
    world: World


@dataclass
class Loop:
    """One run's training state."""

    setup: Setup
    record: Record | None
    say: Callable[[str], None]
    step: int = 0
    best: dict[str, Any] | None = None
    best_tensors: dict[str, Tensor] = field(default_factory=dict)
    worse: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    observe: Callable[[str], Any] = lambda *_: None
    track: Callable[[dict[str, Any]], None] = lambda *_: None
    still: Callable[[str], None] = lambda *_: None  # how far what takes long has come

    def __post_init__(self) -> None:
        s = self.setup
        self.parameters = {n: p for n, p in s.model.named_parameters() if p.requires_grad}
        if (
            s.config.precision == "bf16"
        ):  # autocast would round the frozen weights anew in every step
            for layer in s.method.layers.values():
                layer.base.to(torch.bfloat16)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(s.model, set(s.head), s.config, s.lr), lr=s.lr, fused=True
        )
        warmup = s.config.warmup
        self.warmup = math.ceil(warmup * s.total_steps) if warmup < 1 else int(warmup)
        self.steps_an_epoch = math.ceil(len(s.train) / s.config.batch_size)
        self.eval_every = s.config.eval_every or self.steps_an_epoch
        # Evaluations count for `best` in the second half of the run and once the set of components is final,
        # the same ones for every method: AdaLoRA's last allocation is two steps past half.
        self.counts_from = min(s.total_steps, max((s.total_steps + 1) // 2 + 2, s.method.settled))
        self.watch = Watch(s.world.device)
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    # --- one step -------------------------------------------------------------------------------------

    def rows(self, step: int) -> np.ndarray:
        """The training rows of step `step` (from 1), over all processes."""
        epoch, at = divmod(step - 1, self.steps_an_epoch)
        if self._epoch[0] != epoch:
            s = self.setup
            c = s.config
            self._epoch = (
                epoch,
                order(c.seed, epoch, s.train.lengths, c.batch_size, c.group_by_length),
            )
        return self._epoch[1][at]

    def train_step(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Does step `step`; returns (mean task loss over the batch, penalty or None), not yet read back."""
        s, world = self.setup, self.setup.world
        factor = lr_factor(s.config.schedule, self.warmup, s.total_steps, step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        s.model.train()
        batch = self.rows(step)
        loss = torch.zeros((), device=world.device)
        penalty = None
        for part, rows in enumerate(np.array_split(batch, s.config.grad_accum)):
            torch.manual_seed(step_seed(s.config.seed, step, part, world.rank))
            mine = rows[world.rank :: world.size]
            objective = None
            if len(mine):
                labels = self.to_device(np.asarray(s.train.label)[mine])
                objective = task_loss(s.task, self.forward(s.train, mine), labels) / len(batch)
                loss += objective.detach()
            if part == 0 and (term := s.method.penalty(step)) is not None:
                penalty = term.detach()
                share = term / world.size  # counted once a step, whatever the number of processes
                objective = share if objective is None else objective + share
            if objective is not None:
                objective.backward()
        self.observe("backward")
        processes.sum_gradients(world, self.parameters.values())
        self.watch.see(step, loss, penalty, self.clip())
        self.optimizer.step()
        self.observe("optimizer")
        if (decision := self.decide(step)) is not None:
            self.apply(decision, step)
        self.optimizer.zero_grad(set_to_none=True)
        self.observe("clear")
        return loss, penalty

    def clip(self) -> Tensor:
        """Clips the gradients where the configuration says so; returns their norm before, a scalar."""
        limit = self.setup.config.clip
        if not limit:
            return nn.utils.get_total_norm(
                [p.grad for p in self.parameters.values() if p.grad is not None]
            )
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        self.observe("clip")
        return norm

    def decide(self, step: int) -> Allocation | None:
        """What the method decides after the optimizer's step. Raises RunFailed where its scores are not finite."""
        try:
            return self.setup.method.after_step(step)
        except FloatingPointError as e:
            self.step = step
            self.check_finite()  # a loss that was not finite before is the cause
            raise RunFailed(f"diverged: {e} at step {step}; {self._remedy}") from e

    def forward(self, tokens: Tokens, rows: np.ndarray) -> Tensor:
        """Logits, (len(rows), outputs)."""
        s = self.setup
        batch = tokens.batch(rows)
        mask = attention_mask(s.model, batch.pop("attention_mask"))
        inputs = {k: self.to_device(v) for k, v in batch.items()}
        if mask is not None:
            inputs["attention_mask"] = self.to_device(mask)
        with torch.autocast(
            s.world.device.type, torch.bfloat16, enabled=s.config.precision == "bf16"
        ):
            return s.model(**inputs).logits

    def to_device(self, array: np.ndarray) -> Tensor:
        """The array where the model is. To a GPU the copy is only begun: from pinned memory no one waits for it."""
        tensor, device = torch.from_numpy(array), self.setup.world.device
        if device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    def apply(self, decision: Allocation, step: int) -> None:
        """Masks or removes what the method decided, and notes new allocations in ranks.jsonl."""
        layers = self.setup.method.layers
        if decision.remove:
            lowrank.remove(layers.values(), decision.keep, self.optimizer)
        else:
            lowrank.mask(layers.values(), decision.keep)
        if decision.new and self.record is not None:
            # One transfer for all matrices: every one waits for the device.
            kept = torch.cat(list(decision.keep)).cpu().split([len(k) for k in decision.keep])
            ranks = {name: int(k.sum()) for name, k in zip(layers, kept, strict=True)}
            self.record.log(
                "ranks.jsonl", {"step": step, "total": sum(ranks.values()), "ranks": ranks}
            )
        self.observe("applied")

    # --- evaluation -----------------------------------------------------------------------------------

    def predict(self, tokens: Tokens) -> np.ndarray:
        """Logits of a split in row order, (rows, outputs) float32; each row computed by one process."""
        s = self.setup
        s.model.eval()
        where = f"step {self.step}/{s.total_steps}  evaluating"
        return evaluation.predict(
            tokens,
            s.task.outputs,
            s.world,
            self.forward,
            lambda text: self.still(f"{where}, {text}"),
        )

    def evaluate(self, splits: dict[str, Tokens]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """({metric: value, …, degenerate: why or None}, logits by split)."""
        logits = {split: self.predict(tokens) for split, tokens in splits.items()}
        return evaluation.scores(self.setup.task, logits, splits), logits

    def evaluate_and_select(self) -> None:
        """One evaluation of the run: logs it, and keeps weights that score best where evaluations count."""
        metrics, _ = self.evaluate(self.setup.scored)
        self._log({"split": next(iter(self.setup.scored)), **metrics})
        suffix = "_heldout" if "heldout" in self.setup.scored else ""
        primary = metrics.get(self.setup.task.metrics[0] + suffix)
        shown = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if isinstance(v, float))
        self.say(
            f"step {self.step}/{self.setup.total_steps}  {shown}{'  degenerate' if metrics['degenerate'] else ''}"
        )
        if self.step < self.counts_from:
            return
        self.evaluations += 1
        before = None if self.best is None else self.best["score"]
        if self.best is None or (primary is not None and (before is None or primary > before)):
            self.best = {"step": self.step, "score": primary, "metrics": metrics}
            self.best_tensors = {
                n: p.detach().to("cpu", copy=True) for n, p in self.parameters.items()
            }
            self.worse = 0
        else:
            self.worse += 1

    def _log(self, event: dict[str, Any]) -> None:
        line = {"step": self.step, "epoch": round(self.step / self.steps_an_epoch, 4), **event}
        if self.record is not None:
            self.record.log("metrics.jsonl", line)
        self.track(line)

    # --- the whole run --------------------------------------------------------------------------------

    def run(
        self, signals: StopSignals, progress: Callable[[int, Tensor], None] = lambda *_: None
    ) -> None:
        """Trains to the last step, or to where `patience` ends it. `progress` gets each step and its loss, not read.

        Raises RunFailed where the loss is no longer finite, Stopped where a signal came; the checkpoint is
        written before.
        """
        s = self.setup
        began, saved = time.monotonic() - self.seconds, time.monotonic()
        while self.step < s.total_steps and not self._patience_out():
            step = self.step + 1
            loss, penalty = self.train_step(step)
            self.step = step
            if step % LOG_EVERY == 0 or step == s.total_steps:
                self._log_training(loss, penalty)
            evaluated = step % self.eval_every == 0 or step == s.total_steps
            if evaluated:
                self.check_finite()
                self.evaluate_and_select()
            self.seconds = time.monotonic() - began
            stop = self._agreed(signals.received is not None)
            every = s.config.checkpoint_every
            if (
                evaluated
                or stop
                or (every and step % every == 0)
                or time.monotonic() - saved > CHECKPOINT_S
            ):
                self.save()
                saved = time.monotonic()
            progress(step, loss)
            if stop:
                raise Stopped(
                    f"stopped by a signal after step {step} of {s.total_steps}; the same command resumes"
                )

    def _log_training(self, loss: Tensor, penalty: Tensor | None) -> None:
        s = self.setup
        value = processes.sum_scalar(s.world, loss.clone()).item()
        self.check_finite()
        event = {"split": "train", "loss": value, "lr": self.optimizer.param_groups[0]["lr"]}
        self._log(event if penalty is None else {**event, "penalty": penalty.item()})

    @property
    def _remedy(self) -> str:
        return f"lower lr (now {self.setup.lr:g})"

    def _sound(self) -> bool:
        """Whether all is finite as far as this process knows, which may ask alone."""
        return self.watch.found() is None and not_finite(self.parameters) is None

    def check_finite(self) -> None:
        """Raises RunFailed where loss, penalty or gradients of any step so far, or the weights, are not finite.

        All processes call it at the same steps.
        """
        firsts = processes.gather(self.setup.world, self.watch.found())
        if found := [first for first in firsts if first is not None]:
            step, which = min(found)
            raise RunFailed(
                f"diverged: {Watch.NAMES[which]} not finite at step {step}; {self._remedy}"
            )
        if (weights := not_finite(self.parameters)) is not None:
            raise RunFailed(
                f"diverged: weights not finite after step {self.step}: {weights}; {self._remedy}"
            )

    def _patience_out(self) -> bool:
        patience = self.setup.config.patience
        return patience is not None and self.worse >= patience

    def _agreed(self, flag: bool) -> bool:
        if self.setup.world.size == 1:
            return flag
        mine = torch.tensor(float(flag), device=self.setup.world.device)
        return processes.sum_scalar(self.setup.world, mine).item() > 0

    @contextmanager
    def weights(self, tensors: dict[str, Tensor]) -> Iterator[None]:
        """The model with other trained weights, such as the best ones; the present ones come back after."""
        present = {n: p.detach().clone() for n, p in self.parameters.items()}
        lowrank.restore(self.parameters, tensors)
        try:
            yield
        finally:
            lowrank.restore(self.parameters, present)

    # --- checkpoints ----------------------------------------------------------------------------------

    def save(self) -> None:
        """Weights, moments, the method's state and the best so far, in one file, by the main process.

        Where something is not finite the checkpoint before is kept; the next line of the log ends the run.
        """
        if self.record is None or not self._sound():
            return
        tensors: dict[str, Tensor] = {f"weights/{n}": p for n, p in self.parameters.items()}
        for name, p in self.parameters.items():
            tensors |= {
                f"moments/{name}/{k}": v for k, v in self.optimizer.state.get(p, {}).items()
            }
        tensors |= {f"method/{k}": v for k, v in self.setup.method.state().items()}
        tensors |= {f"best/{k}": v for k, v in self.best_tensors.items()}
        about = {
            "journals": self.record.sync(),
            "best": self.best,
            "worse": self.worse,
            "evaluations": self.evaluations,
            "seconds": self.seconds,
        }
        checkpoint.save(self.record.checkpoints, self.step, tensors, about)
        self.record.update(
            progress={
                "step": self.step,
                "total_steps": self.setup.total_steps,
                "seconds": round(self.seconds, 1),
            }
        )

    def load(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Takes up where a checkpoint left off."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        lowrank.restore(self.parameters, part("weights/"))
        device = self.setup.world.device
        for name, p in self.parameters.items():
            if moments := part(f"moments/{name}/"):
                self.optimizer.state[p] = {k: v.to(device) for k, v in moments.items()}
        self.setup.method.load(part("method/"))
        self.best_tensors = part("best/")
        self.step, self.best, self.worse = about["step"], about["best"], about["worse"]
        self.evaluations, self.seconds = about["evaluations"], about["seconds"]
