"""One run from its preparation to its finished record."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from dora.adapters import lowrank
from dora.backbones import backbone, vocabulary
from dora.backbones.attention import cheapen_dropout
from dora.data.sources import fingerprint
from dora.data.tokens import Tokens, tokenised
from dora.errors import RunFailed, Stopped, UserError, foreseen
from dora.methods import METHODS
from dora.methods.protocol import Method
from dora.process import memory
from dora.process.signals import StopSignals
from dora.records.provenance import processor, provenance
from dora.records.record import Record, writable
from dora.training import checkpoint, processes
from dora.training.added import predict_added
from dora.training.finish import finish
from dora.training.finite import not_finite
from dora.training.lines import Lines, Pace, embedded_note, on_terminal
from dora.training.loop import Loop, Setup
from dora.training.prepare import Prepared
from dora.training.processes import World
from dora.training.start import Start
from dora.training.tracking import Tracker

MANY_ROWS = 50_000  # from here on tokenising takes so long that it is said


def run(
    prepared: Prepared, words: Sequence[str] | None = None, label: str = "", bar: bool = True
) -> dict[str, Any]:
    """Trains what was prepared, or resumes it, or finds it done and predicts what came later. Returns run.json.

    `words`: what to type after `python -m dora.run` for this run alone, for whoever reads the record. `label`: what
    each of its lines begins with, where it is one of a sweep. `bar`: whether it may show a progress bar, on a terminal.

    Raises UserError where its directory cannot be written to, RunFailed where it ended without a result, Stopped where
    a signal ended it in good order, or came when no step was left to train, and NotNow, which is a Stopped too, where
    another process is at work on it or a disk is full.
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
                prepared, world, record, lambda: _build(prepared, world, None, Lines(None)), say
            )
        return record.data
    finally:
        record.close()
        processes.stop(world)


def _header(p: Prepared, world: World, words: Sequence[str] | None) -> dict[str, Any]:
    note = embedded_note(p.config)
    return {
        "config": p.settings,
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


def _hub(p: Prepared) -> str | None:
    """The hub repository that the model was read from; None for a folder, whatever else the model's YAML names."""
    return None if p.config.model.path else p.config.model.hub


def _train_and_finish(
    p: Prepared, world: World, record: Record, label: str, bar: bool
) -> dict[str, Any]:
    # One of several processes must not leave the others waiting for it, so that all of them first train a step.
    signals = StopSignals(waits=world.size > 1)
    tracker = None
    with writable(record.folder):
        said = Lines(record.folder if world.main else None, label, bar)
    with said as lines:
        try:
            with signals:
                signals.begin()
                loop = _build(p, world, record if world.main else None, lines)
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
        # Reading the loss waits for the device, and is done for a line alone. Of several processes the first one's
        # rows, its share of the mean, stand for all.
        lines.progress(
            step,
            lambda: pace.line(
                step, loss.item() * s.world.size, loop.optimizer.param_groups[0]["lr"]
            ),
        )

    signals.wait()
    loop.run(signals, progress)
    lines.end_bar()


def _build(p: Prepared, world: World, record: Record | None, say: Lines) -> Loop:
    """Tokens, model, method and loop, at the newest checkpoint where there is one."""
    c = p.config
    splits = _tokens(p, say)
    memory.reset_peak(
        world.device
    )  # tokenising, which the first of equal runs does for all, is not the run's
    # A regression starts from the best constant. From 0, an adapter at its usual rate reaches the labels' mean
    # sooner through the encoder than through the head, and what the encoder knew is lost on the way (STS-B).
    mean = float(np.mean(np.asarray(splits["train"].label))) if c.kind.regression else None
    model, head = backbone.load_model(p.model, c.kind.outputs, c.head_dropout, c.seed, mean, say)
    _refuse_not_finite(model, p.model.path)
    generator = torch.Generator().manual_seed(c.seed)
    model.requires_grad_(False)
    method: Method = METHODS[c.method_name][1](c.method, model, p.plan, p.total_steps, generator)
    if p.start is not None:
        _take_start(model, method, p.start, head)
        _refuse_not_finite(model, p.start.folder)
    model.to(world.device)
    if world.device.type == "cpu":
        cheapen_dropout(model)
    if c.compile:
        model.compile(dynamic=True)
    method.load(
        method.state()
    )  # its state follows the layers: start values are drawn on the CPU everywhere
    parameters = dict(model.named_parameters())
    for name in head:
        parameters[name].requires_grad_(True)
    scored = {"heldout": splits["heldout"]} if p.heldout_rows is not None else _dev(p, splits)
    reported = {k: v for k, v in splits.items() if k not in ("train", "heldout")}
    loop = Loop(
        Setup(
            c,
            c.kind,
            model,
            head,
            method,
            p.plan,
            p.lr,
            splits["train"],
            scored,
            reported,
            p.total_steps,
            world,
        ),
        record,
        say,
    )
    _announce(p, loop, say)
    found = (
        None if record is None else checkpoint.load(record.checkpoints, say, record.journals_differ)
    )
    found = processes.broadcast(world, found)
    if found is not None:
        loop.load(*found)
        say(f"resumed after step {loop.step} of {p.total_steps}")
    if record is not None:
        if changed := record.start(loop.step):
            say(f"{changed}: the result may not be, to the bit, that of a run left alone")
        record.start_journals(found[1]["journals"] if found else {})
    return loop


def _refuse_not_finite(model: torch.nn.Module, folder: Path) -> None:
    if (bad := not_finite(dict(model.named_parameters()))) is not None:
        raise UserError(
            f"the weights in {folder} hold NaN or infinity: {bad}; they are damaged, or were saved by a run that "
            "had diverged: fetch or make them again"
        )


def _dev(p: Prepared, splits: dict[str, Tokens]) -> dict[str, Tokens]:
    return {k: splits[k] for k in p.config.kind.dev_splits}


def _tokens(p: Prepared, say: Lines) -> dict[str, Tokens]:
    """Every split tokenised once into the cache; the training rows cut to those this run uses."""
    tokenizer = backbone.load_tokenizer(p.model)
    cache = Path(p.config.results) / "cache"
    words = backbone.fingerprint(p.model, tokenizer_only=True)
    number = sum(len(rows.idx) for rows in p.rows.values())

    def begin() -> None:
        if number >= MANY_ROWS:
            say(f"tokenising {number:,} rows, once for all runs on them")

    # AX is no part of the data's fingerprint, so it has a place of its own in the cache.
    own = {k: v for k, v in p.rows.items() if k in p.config.kind.splits}
    added = {k: v for k, v in p.rows.items() if k not in own}
    splits: dict[str, Tokens] = {}
    for name, rows in ((p.fingerprints["data"], own), (fingerprint(added), added)):
        place = f"{name} {words}"
        splits |= tokenised(cache, place, rows, tokenizer, p.config.max_length, p.segments, begin)
    for split, tokens in splits.items():
        vocabulary.check_known(
            tokens.ids, len(tokens), tokenizer, f"{p.config.task.name}'s {split}"
        )
    whole = splits["train"]
    splits["train"] = whole.take(p.train_rows)
    if p.heldout_rows is not None:
        splits["heldout"] = whole.take(p.heldout_rows)
    return splits


def _take_start(model: torch.nn.Module, method: Method, start: Start, head: list[str]) -> None:
    """The adapter of another run, ranks and scale with it, or its fine-tuned backbone. The head stays new."""
    if start.scale is None:
        tensors = safetensors.torch.load_file(start.folder / "model" / "model.safetensors")
        model.load_state_dict({k: v for k, v in tensors.items() if k not in head}, strict=False)
        return
    tensors = safetensors.torch.load_file(start.folder / "best.safetensors")
    for name, layer in method.layers.items():
        layer.scale = start.scale
        lowrank.restore(layer.factors(), {k: tensors[f"{name}.{k}"] for k in layer.factors()})


def _announce(p: Prepared, loop: Loop, say: Lines) -> None:
    """The first lines: what is embedded, what is trained, the plan of its budget."""
    s, c = loop.setup, p.config
    trained = sum(q.numel() for q in loop.parameters.values())
    in_head = sum(loop.parameters[n].numel() for n in s.head)
    for note in filter(None, (embedded_note(c), c.model.note)):
        say.once(note)
    for line in [
        f"{c.method_name} on {c.model_name}, {c.task.name} ({c.data.name}, {len(p.train_rows):,} rows), seed {c.seed}: "
        f"{p.total_steps} steps of {c.batch_size}, lr {p.lr:g}",
        *(p.plan.describe() if p.plan else ["every weight is trained; the budget does not apply"]),
        f"trained: {trained:,} parameters, {in_head:,} of them the head, which no budget counts",
    ]:
        say(line)
    if loop.record is not None:
        adapter = p.plan.start_params if p.plan else 0
        gates = sum(q.numel() for n, q in loop.parameters.items() if n.endswith(".g"))
        budget = str(p.plan.budget) if p.plan else None
        plan = None
        if p.plan:
            components, params = p.plan.end_range()
            plan = {
                "start_components": sum(p.plan.start),
                "start_params": adapter,
                "end_components": components,
                "end_params": params,
            }
        loop.record.update(
            params={
                "trainable": trained,
                "head": in_head,
                "gates": gates,
                "adapter_start": adapter,
                "budget": budget,
            },
            plan=plan,
            scale=_scale(s.method),
            counts_from=loop.counts_from,
            ranks={"start": {n: layer.rank for n, layer in s.method.layers.items()}},
        )


def _scale(method: Method) -> float | None:
    return next((layer.scale for layer in method.layers.values()), None)
