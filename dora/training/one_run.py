"""One run from its preparation to its finished record."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dora.errors import RunFailed, Stopped, UserError, foreseen
from dora.methods.base import Method
from dora.process.signals import StopSignals
from dora.records.provenance import processor, provenance
from dora.records.record import Record, writable
from dora.training import checkpoint, processes
from dora.training.added import predict_added
from dora.training.build import build
from dora.training.finish import finish
from dora.training.lines import Lines, Pace, embedded_note, on_terminal
from dora.training.loop import Loop
from dora.training.prepare import Prepared
from dora.training.processes import World
from dora.training.tracking import Tracker


def run(
    prepared: Prepared, words: Sequence[str] | None = None, label: str = "", bar: bool = True
) -> dict[str, Any]:
    """Trains what was prepared, or resumes it, or finds it done and predicts what came later.
    Returns run.json.

    `words`: what to type after `python -m dora.run` for this run alone, for whoever reads the
    record. `label`: what each of its lines begins with, where it is one of a sweep. `bar`: whether
    it may show a progress bar, on a terminal.

    Raises UserError where its directory cannot be written to, RunFailed where it ended without a
    result, Stopped where a signal ended it in good order, or came when no step was left to train,
    and NotNow, which is a Stopped too, where another process is at work on it or a disk is full.
    """
    config = prepared.config
    world = processes.start(config.device)
    torch.set_num_threads(config.cpu_threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Otherwise all new memory would be written twice.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    record = Record(prepared.folder)
    try:
        if world.main:
            record.open(_header(prepared, world, words), force=config.force)
        if not processes.broadcast(world, record.done):
            return _train_and_finish(prepared, world, record, label, bar and on_terminal())
        with Lines(prepared.folder if world.main else None, label) as say:
            predict_added(
                prepared, world, record, lambda: build(prepared, world, None, Lines(None)), say
            )
        return record.data
    finally:
        record.close()
        processes.stop(world)


def _header(p: Prepared, world: World, words: Sequence[str] | None) -> dict[str, Any]:
    note = embedded_note(p.config)
    return {
        "config": p.settings,
        "method": _about(p.config.chosen.kind),
        "words": None if words is None else list(words),
        "seed": p.config.seed,
        "embedded": note,
        "note": p.config.model.note,
        "data": {
            "revision": p.revision,
            "rows": {k: len(v) for k, v in p.rows.items()},
            "train": len(p.train_rows),
        },
        "model": {
            "hub": _hub(p),
            "revision": p.config.model.revision if _hub(p) else None,
            "path": str(p.model.path) if p.config.model.path else None,
            "random_weights": p.model.random_weights,
        },
        "fingerprints": p.fingerprints,
        "init_from": str(p.start.folder) if p.start else None,
        "device": torch.cuda.get_device_name(world.device)
        if world.device.type == "cuda"
        else "cpu",
        "processor": processor(),
        "world_size": world.size,
        "total_steps": p.total_steps,
        **provenance(),
    }


def _about(kind: type[Method]) -> dict[str, str | None]:
    """Returns what tools that must not import the method need to know of it."""
    return {
        "title": kind.title,
        "paper": kind.paper,
        "note": kind.note,
        "budget": kind.budget,
        "result": kind.result,
    }


def _hub(p: Prepared) -> str | None:
    """The hub repository that the model was read from; None for a folder, whatever else the model's
    YAML names.
    """
    return None if p.config.model.path else p.config.model.hub


def _train_and_finish(
    p: Prepared, world: World, record: Record, label: str, bar: bool
) -> dict[str, Any]:
    # One of several processes must not leave the others waiting for it, so that all of them first
    # train a step.
    signals = StopSignals(waits=world.size > 1)
    tracker = None
    with writable(record.folder):
        said = Lines(record.folder if world.main else None, label, bar)
    with said as lines:
        try:
            with signals:
                signals.begin()
                loop = build(p, world, record if world.main else None, lines)
                loop.still = lines.still
                if world.main:
                    tracker = Tracker(p.config, record, p.settings)
                    loop.track = tracker.log
                _train(loop, signals, lines)
                finish(p, loop, record, lines)
        except BaseException as e:
            lines.end_bar()
            c = p.config
            why = foreseen(
                e, checkpoint.newest(record.checkpoints), c.batch_size, c.grad_accum, c.max_length
            )
            if world.main:
                _note_failure(record, why or e, lines)
            if isinstance(e, Stopped | KeyboardInterrupt):
                tracker = None  # the process ends, and wandb with it: a cluster does not wait for an upload
            if isinstance(e, Stopped):
                e.hand_over = signals.hand_over
            if why is not None:
                raise why from e
            raise
        finally:
            if tracker is not None:
                tracker.finish(record, lines)
    if signals.received is not None:  # too late to stop this run, not too late to stop its sweep
        stopped = Stopped("done; the signal came after its last step")
        stopped.hand_over, stopped.result = signals.hand_over, record.data
        raise stopped
    return record.data


def _note_failure(record: Record, error: BaseException, say: Lines) -> None:
    """Says in run.json why the run ended; a run that was stopped or failed keeps its checkpoint."""
    if isinstance(error, Stopped | KeyboardInterrupt):
        status, reason = (
            "stopped",
            str(error) or "interrupted; the same command resumes from the last checkpoint",
        )
    elif isinstance(error, RunFailed | UserError):
        status, reason = ("diverged" if str(error).startswith("diverged") else "failed"), str(error)
    else:
        status, reason = "failed", f"{type(error).__name__}: {error}"
    if record.taken_by is None and not record.done:  # what is done stays done, whatever comes after
        try:
            more = {"divergences": record.divergences + 1} if status == "diverged" else {}
            record.update(status=status, reason=reason, **more)
        except OSError as e:
            say(
                f"{record.folder / 'run.json'} could not be written either ({e}) and still says running"
            )
    if not isinstance(error, Stopped | KeyboardInterrupt | RunFailed | UserError):
        say("".join(traceback.format_exception(error)))  # whoever mends it needs all of it
    # What Ctrl-C means is said by the command, once.
    last = say.note if isinstance(error, KeyboardInterrupt) else say
    last(reason if reason.startswith(status) else f"{status}: {reason}")


def _train(loop: Loop, signals: StopSignals, lines: Lines) -> None:
    """Trains to the end, and shows how far it is."""
    s, pace = loop.setup, Pace(loop.step, loop.setup.total_steps)
    lines.begin_bar(s.total_steps, loop.step)

    def progress(step: int, loss: Tensor) -> None:
        # Reading the loss waits for the device, and is done for a line alone. Of several processes
        # the first one's rows, its share of the mean, stand for all.
        lines.progress(
            step,
            lambda: pace.line(step, loss.item() * s.world.size, loop.stepper.rate),
        )

    signals.wait()
    loop.run(signals, progress)
    lines.end_bar()
