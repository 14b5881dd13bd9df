"""One run from its preparation to its finished record."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dora.errors import Diverged, PeerEnded, RunFailed, Stopped, UserError
from dora.preparing.prepare import Prepared
from dora.process.signals import StopSignals
from dora.records.record import REMOVED, Record, writable
from dora.training import checkpoint, processes
from dora.training.added_splits import predict_added
from dora.training.build import build
from dora.training.evaluation import rows_at_once
from dora.training.finish import finish
from dora.training.foreseen import foreseen
from dora.training.header import header
from dora.training.lines import Lines, Pace, on_terminal
from dora.training.loop import Loop
from dora.training.processes import World
from dora.training.tracking import Trackers


def run(
    prepared: Prepared,
    words: Sequence[str] | None = None,
    label: str = "",
    bar: bool = True,
    signals: StopSignals | None = None,
) -> dict[str, Any]:
    """Trains or resumes a prepared run, or predicts what a done one lacks. Returns run.json.

    `words`: the arguments of `python -m dora.run` that make this run alone, for readers of the
    record. `label`: begins each of its lines, if it is one of a sweep. `bar`: whether a progress
    bar may be shown on a terminal. `signals`: notes signals that stop the run; the caller may read
    there which one came.

    Raises UserError if the run's directory cannot be written to, RunFailed if it ends without a
    result, Stopped if a signal ends it in good order, and NotNow, a subclass of Stopped, if another
    process is at work on it or a disk is full. A signal after the final predictions raises nothing.
    """
    config = prepared.config
    world = processes.start(config.device)
    # On processors of several kinds precision=auto may mean fp32 or bf16: the main process decides.
    prepared = prepared.in_precision(world.broadcast(config.precision))
    torch.set_num_threads(config.cpu_threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Deterministic mode would fill all new memory with NaN first, and so write it twice.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    signals = StopSignals() if signals is None else signals
    # From the start: a process that ended before the first step would leave the others waiting.
    signals.waits = world.size > 1
    record, failed = Record(prepared.folder), True
    try:
        _open(record, prepared, world, words)
        if world.broadcast(record.done):
            with Lines(prepared.folder if world.main else None, label) as say:
                predict_added(prepared, world, record, say)
        else:
            with writable(record.folder):
                lines = Lines(record.folder if world.main else None, label, bar and on_terminal())
            with lines:
                _train_and_finish(prepared, world, record, signals, lines)
        failed = False
        return record.data
    except Stopped:  # by all of them, or because another has ended
        failed = False
        raise
    finally:
        record.close()
        processes.stop(world, failed)


def _open(record: Record, p: Prepared, world: World, words: Sequence[str] | None) -> None:
    """Opens the record in the main process; an error that refuses it is raised in every process."""
    refused: Exception | None = None
    if world.main:
        try:
            record.open(header(p, world, words), force=p.config.force)
        except (UserError, RunFailed, Stopped) as e:
            refused = e
    # The others would otherwise wait for this process, and fail once it has ended.
    refused = world.broadcast(refused)
    if refused is not None:
        raise refused


def _train_and_finish(
    p: Prepared, world: World, record: Record, signals: StopSignals, lines: Lines
) -> None:
    """Trains to the end and finishes the record; an error that ends the run is noted there."""
    trackers = None
    try:
        with signals:
            signals.begin()
            loop = build(p, world, record if world.main else None, lines)
            if world.main:
                trackers = Trackers(p.config, record, p.settings, loop.step, lines)
                loop.track = trackers.log
            _train(loop, signals, lines)
            loop.stopping = lambda: signals.received is not None
            finish(p, loop, record, lines)
    except BaseException as e:
        lines.end_bar()
        cause = _cause(e, p, world, record)
        if world.main:
            _note_end(record, cause, lines)
        elif not isinstance(cause, Stopped | KeyboardInterrupt):
            processes.tell_failure(world, _status_and_reason(cause)[1])
        if trackers is not None and isinstance(e, Stopped | KeyboardInterrupt):
            trackers.leave()
            trackers = None
        if cause is not e:
            raise cause from e
        raise
    finally:
        if trackers is not None:
            trackers.finish(record)


def _cause(error: BaseException, p: Prepared, world: World, record: Record) -> BaseException:
    """Returns the error that says why the run ended: `error` itself where no cause is known."""
    saved = checkpoint.newest(record.checkpoints)
    evaluated = rows_at_once(world.device, world.size)
    cause = foreseen(error, saved, p.config, evaluated, world.size)
    # A write, such as a checkpoint's, also fails because the run's directory was removed.
    if cause is None and isinstance(error, OSError) and record.taken_by == REMOVED:
        cause = record.removed()
    if world.main and isinstance(cause, PeerEnded) and (told := processes.told_failure()):
        return RunFailed(told)
    return cause or error


def _note_end(record: Record, error: BaseException, say: Lines) -> None:
    """Says in run.json why the run ended; a run that was stopped or failed keeps its checkpoint."""
    known = isinstance(error, Stopped | RunFailed | UserError | KeyboardInterrupt)
    status, reason = _status_and_reason(error)
    if record.taken_by is None and not record.done:  # a done run stays done
        try:
            more = {"divergences": record.divergences + 1} if status == Diverged.status else {}
            record.update(status=status, reason=reason, **more)
        except OSError as e:
            file = record.folder / "run.json"
            say(f"{file} could not be written either ({e}) and still says running")
    if not known:
        say("".join(traceback.format_exception(error)))  # whoever mends it needs all of it
    # On standard output the command itself explains Ctrl-C, once for all runs of a sweep.
    last = say.note if isinstance(error, KeyboardInterrupt) else say
    last(reason if reason.startswith(status) else f"{status}: {reason}")


def _status_and_reason(error: BaseException) -> tuple[str, str]:
    """Returns the status and the reason that run.json gives for a run that this error ended."""
    if isinstance(error, KeyboardInterrupt):
        again = "interrupted; the same command resumes from the last checkpoint"
        return Stopped.status, str(error) or again
    if isinstance(error, Stopped | RunFailed):
        return error.status, str(error)
    if isinstance(error, UserError):
        return RunFailed.status, str(error)
    return RunFailed.status, f"{type(error).__name__}: {error}"


def _mean(loop: Loop, step: int, loss: Tensor) -> float:
    """Returns the mean loss over this process's rows of a step, which stand for those of all.

    `loss`: its share of the mean over the whole batch.
    """
    world, rows = loop.setup.world, len(loop.setup.course.rows(step))
    mine = len(range(world.rank, rows, world.size))
    return loss.item() * rows / max(1, mine)


def _train(loop: Loop, signals: StopSignals, lines: Lines) -> None:
    """Trains to the end, and shows how far it is."""
    s, pace = loop.setup, Pace(loop.step, loop.setup.total_steps)
    lines.begin_bar(s.total_steps, loop.step)

    def progress(step: int, loss: Tensor) -> None:
        # Reading the loss waits for the device, and is done for a line alone.
        lines.progress(
            step,
            lambda: pace.line(step, _mean(loop, step, loss), loop.stepper.rate, loop.components),
        )

    signals.wait()
    loop.run(signals, progress)
    lines.end_bar()
