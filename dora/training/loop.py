"""The training loop: steps, and between them evaluation, log lines and checkpoints.

Its parts stand in modules of their own: step.py takes one step, evaluation.py predicts and scores,
selection.py chooses the best evaluation, checkpoint.py writes a checkpoint's file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dora.adapters import result
from dora.data.tasks import score_key
from dora.data.tokens import Tokens
from dora.errors import Stopped
from dora.process.signals import StopSignals
from dora.records import journals
from dora.records.record import Record
from dora.training import checkpoint, evaluation
from dora.training.lines import Lines, figures
from dora.training.selection import Selection, counts_from
from dora.training.step import Setup, Stepper

LOG_EVERY = 10  # steps between training lines; reading the loss waits for the device
CHECKPOINT_S = 300.0  # seconds of work that a crash may cost where evaluations are far apart


class Loop:
    """One run's training state, and the loop over its steps.

    `record`: the run's directory, None in a process that keeps no record. `say`: shows the user
    lines. `track`: receives (journal, line) of each line of the journals. `stopping`: tells whether
    a signal has come, for evaluations after the last step, which a signal may end.
    """

    def __init__(self, setup: Setup, record: Record | None, say: Lines) -> None:
        self.setup, self.record, self.say = setup, record, say
        self.step = 0
        self.saved = 0  # the step of the newest checkpoint, 0 without one
        self.seconds = 0.0  # of training, over all starts of the run
        # Live components at the last log line or allocation; None before the first one, and for a
        # method whose components stay as many.
        self.components: int | None = None
        self.track: Callable[[str, dict[str, Any]], None] = lambda journal, line: None
        self.stopping: Callable[[], bool] = lambda: False
        self.stepper = Stepper(setup, self._log_ranks)
        self.eval_every = setup.config.eval_every or setup.course.steps_an_epoch
        from_step = counts_from(setup.total_steps, setup.method.ranks_final_at)
        self.selection = Selection(from_step, setup.config.patience)
        # (step, logits by split) of this process's last evaluation in training.
        self._evaluated: tuple[int, dict[str, np.ndarray]] = (0, {})

    def train_step(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Takes step `step`; returns (mean task loss, penalty or None), see `Stepper.take`."""
        return self.stepper.take(step)

    def run(
        self, signals: StopSignals, progress: Callable[[int, Tensor], None] = lambda *_: None
    ) -> None:
        """Trains to the last step, or until `patience` ends the run.

        `progress`: receives each step and its loss, which is still on the device. Raises RunFailed
        if the loss is not finite, and Stopped after a signal, once a checkpoint is written.
        """
        s = self.setup
        # Set back by the seconds that earlier starts of the run have trained.
        began, saved = time.monotonic() - self.seconds, time.monotonic()
        while self.step < s.total_steps and not self.selection.out_of_patience:
            step = self.step + 1
            loss, penalty = self.train_step(step)
            # Set before anything is logged or saved: both record the step as taken.
            self.step = step
            if logged := step % LOG_EVERY == 0 or step == s.total_steps:
                self._log_training(loss, penalty)
            evaluated = s.course.crosses(step, self.eval_every) or step == s.total_steps
            if evaluated:
                # Before the evaluation: weights that are not finite must never be offered as best.
                self.stepper.check_finite(step)
                self.evaluate_and_select()
                if self.selection.out_of_patience and not logged:  # this step is the last one
                    self._log_training(loss, penalty)
            self.seconds = time.monotonic() - began
            # All processes stop after the same step, though a signal may reach some of them a step
            # earlier: the others would wait for their gradients for ever.
            stop = self._agreed(signals.received is not None)
            every = s.config.checkpoint_every
            asked = every is not None and s.course.crosses(step, every)
            long_ago = time.monotonic() - saved > CHECKPOINT_S
            # Also after each evaluation, which may take longer than the steps before it: a killed
            # run should not have to repeat it.
            if (evaluated or stop or asked or long_ago) and s.course.ends_unit(step):
                self.save()
                saved = time.monotonic()
            progress(step, loss)
            if stop:
                # A step within a round of clients cannot be saved.
                at = f"after step {self.saved}" if self.saved else "at its start"
                known = self.record is not None and self.saved != step
                raise Stopped(
                    f"stopped by a signal after step {step} of {s.total_steps}; "
                    f"the same command resumes{f' {at}' if known else ''}"
                )

    def _agreed(self, flag: bool) -> bool:
        """Says whether any process has set its flag; the answer is equal on all of them."""
        world = self.setup.world
        if world.size == 1:
            return flag
        mine = torch.tensor(float(flag), device=world.device)
        return world.sum_scalar(mine).item() > 0

    # --- evaluation ---

    def predict(self, tokens: Tokens) -> np.ndarray:
        """Returns the logits of a split in row order, (rows, outputs) float32.

        Raises Stopped if `stopping` says so, which is after the last step's checkpoint alone.
        """
        s = self.setup
        s.model.eval()
        where = f"step {self.step}/{s.total_steps}  evaluating"

        def each_batch(text: str) -> None:
            # Several processes may differ in their number of batches: they ask once a split.
            if s.world.size == 1:
                self._heed()
            self.say.if_silent(f"{where}, {text}")

        self._heed()
        return evaluation.predict(tokens, s.task.outputs, s.world, self.stepper.forward, each_batch)

    def _heed(self) -> None:
        """Raises Stopped if a signal has come to any process."""
        if self._agreed(self.stopping()):
            raise Stopped(
                "stopped by a signal while it predicted with the final weights; the same command "
                "goes on behind the last step"
            )

    def evaluate(
        self, splits: dict[str, Tokens], known: Mapping[str, np.ndarray] | None = None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Returns ({metric: value, …, degenerate: why or None}, logits by split).

        `known`: logits of the present weights by split, which are not computed again.
        """
        known = known or {}
        logits = {
            split: known[split] if split in known else self.predict(tokens)
            for split, tokens in splits.items()
        }
        return evaluation.scores(self.setup.task, logits, splits), logits

    def known(self, step: int) -> dict[str, np.ndarray]:
        """Returns the logits by split that this process's evaluation at `step` gave.

        Empty unless it is the last evaluation: a process that resumed behind it has none.
        """
        evaluated, logits = self._evaluated
        return logits if evaluated == step else {}

    def evaluate_and_select(self) -> None:
        """Evaluates the scored splits, logs the scores, and offers the weights to `selection`."""
        s = self.setup
        s.guard.check_identity(self.step)
        selecting = next(iter(s.scored))
        metrics, logits = self.evaluate(s.scored)
        self._evaluated = self.step, logits
        # From the predictions that there are, without another forward pass.
        losses = evaluation.losses(s.task, logits, s.scored)
        self._log({"split": selecting, **losses, **metrics})
        shown = [f"{k} {v:.4f}" for k, v in (metrics | losses).items() if isinstance(v, float)]
        shown += ["degenerate"] if metrics["degenerate"] else []
        self.say(f"step {self.step}/{s.total_steps}  {'  '.join(shown)}")
        # The task's first metric selects. A metric that is not defined is absent, hence `get`.
        score = metrics.get(score_key(s.task.metrics[0], selecting))
        self.selection.offer(self.step, score, metrics, losses, self.result())

    # --- journals ---

    def _log(self, event: dict[str, Any]) -> None:
        epoch = round(self.step / self.setup.course.steps_an_epoch, 4)
        line = {"step": self.step, "epoch": epoch, **event}
        self._write(journals.METRICS, line)

    def _write(self, journal: str, line: dict[str, Any]) -> None:
        if self.record is not None:
            self.record.log(journal, line)
        self.track(journal, line)

    def _log_training(self, loss: Tensor, penalty: Tensor | None) -> None:
        s = self.setup
        # A clone: the sum is made in place, and `progress` still reads this process's own loss.
        read = {"loss": s.world.sum_scalar(loss.clone())}
        read["gradient_norm"] = self.stepper.gradient_norm.to(loss.dtype)
        read |= {} if penalty is None else {"penalty": penalty.to(loss.dtype)}
        # Stacked: reading them one by one would wait for the device each time.
        values = dict(zip(read, torch.stack(list(read.values())).tolist(), strict=True))
        self.stepper.check_finite(self.step)
        event = {"split": "train", "loss": values.pop("loss"), "lr": self.stepper.rate, **values}
        if ranks := s.method.ranks():
            event["components"] = sum(ranks.values())
            self.components = event["components"] if s.method.ranks_final_at else None
        self._log(event)
        self.say.beside_bar(figures(event["loss"], event["lr"], self.components))

    def _log_ranks(self, event: dict[str, Any]) -> None:
        self.components = event["total"]
        self._write(journals.RANKS, event)
        if "live_before" in event:
            ranks = list(event["ranks"].values())
            self.say(
                f"step {event['step']}/{self.setup.total_steps}  {event['total']} of "
                f"{event['live_before']} live components kept, "
                f"{ranks.count(0)} of {len(ranks)} matrices without any"
            )
        if "warning" in event:
            self.say(f"warning: {event['warning']}")

    # --- the run's result, and checkpoints ---

    def about_rounds(self, step: int) -> dict[str, Any]:
        """Returns the record's entry on clients and rounds up to `step`; empty without clients."""
        return {}

    def result(self) -> dict[str, Tensor]:
        """Returns the tensors that make up the run's result, the live ones, not copies."""
        return result.tensors_of(self.setup.model, self.setup.method.frozen())

    def put(self, tensors: dict[str, Tensor]) -> None:
        """Puts a result's stored tensors into the model.

        Raises KeyError for a name that the model does not have.
        """
        result.restore(self.setup.model, self.setup.method.frozen(), tensors)
        self.setup.guard.note()

    def save(self) -> None:
        """Writes a checkpoint: result, moments, the method's state and the best evaluation so far.

        Only the main process does so, and only if all values are finite. Otherwise the checkpoint
        before stays, and the next log line ends the run.
        """
        self.setup.guard.check_identity(self.step)
        if self.record is None or not self.stepper.sound():
            return
        tensors = {f"weights/{name}": t for name, t in self.result().items()}
        for name, p in self.stepper.parameters.items():
            moments = self.stepper.optimizer.state.get(p, {})
            tensors |= {f"moments/{name}/{k}": v for k, v in moments.items()}
        tensors |= {f"method/{k}": v for k, v in self.setup.guard.state(tensors).items()}
        tensors |= {f"best/{k}": v for k, v in self.selection.tensors.items()}
        # The journals are synced first and their lengths go into the label: a checkpoint never
        # points beyond what is on the disk.
        about = {
            "journals": self.record.sync(),
            **self.selection.label(),
            "seconds": self.seconds,
        }
        checkpoint.save(self.record.checkpoints, self.step, tensors, about)
        self.saved = self.step
        progress = {
            "step": self.step,
            "total_steps": self.setup.total_steps,
            "seconds": round(self.seconds, 1),
        }
        self.record.update(progress=progress)

    def load(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Restores the state that `save` wrote: a checkpoint's tensors and its label."""

        def part(prefix: str) -> dict[str, Tensor]:
            """Returns the tensors whose names begin with `prefix`, without it."""
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        # Parameters stay the same objects even where stored ones are smaller, so the optimizer's
        # groups and the keys of its state stay valid.
        self.put(part("weights/"))
        device = self.setup.world.device
        for name, p in self.stepper.parameters.items():
            if moments := part(f"moments/{name}/"):
                self.stepper.optimizer.state[p] = {k: v.to(device) for k, v in moments.items()}
        self.setup.method.load(part("method/"))
        self.selection.take_up(about, part("best/"))
        self.step, self.seconds = about["step"], about["seconds"]
        self.saved = self.step
