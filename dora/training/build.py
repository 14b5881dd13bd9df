"""Builds a run's training loop: tokens, model, method, and the newest checkpoint if there is one.

Everything that can refuse the run once its model is loaded is checked here, before the first step.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from dora.adapters import result
from dora.backbones import backbone, vocabulary
from dora.backbones.attention import speed_up
from dora.data.sources import fingerprint
from dora.data.token_cache import tokenised
from dora.data.tokens import Tokens
from dora.errors import UserError
from dora.guarding.guard import Guard
from dora.guarding.loaded import Loaded
from dora.methods.base import overrides
from dora.preparing.planning import run_info
from dora.preparing.prepare import Prepared
from dora.process import memory
from dora.records.record import Record
from dora.training import checkpoint
from dora.training.announce import announce
from dora.training.calibration import calibrator
from dora.training.carry_over import carry_over
from dora.training.course import Course, FederatedCourse
from dora.training.federated_loop import FederatedLoop
from dora.training.finite import not_finite
from dora.training.lines import Lines
from dora.training.loop import Loop
from dora.training.processes import World
from dora.training.step import Setup

MANY_ROWS = 50_000  # tokenising more rows takes long enough to say so beforehand


def build(
    p: Prepared, world: World, record: Record | None, say: Lines, trains: bool = True
) -> Loop:
    """Builds the run's loop, and takes up its newest checkpoint, if there is one.

    With a record it also notes this start in run.json and cuts the journals back to the checkpoint.
    `record`: the directory that the loop writes to; None in a process that keeps no record, and
    where finished weights only predict. `trains`: False for these, which need no start values.
    """
    splits = _tokens(p, say)
    # Its memory is not counted: the first of several runs on the same data tokenises for all.
    memory.reset_peak(world.device)
    model, head = _model(p, splits, say)
    guard = attach(p, model, head)
    _place(p, world, model, guard)
    found = None
    if record is not None:
        found = checkpoint.load(record.checkpoints, say, record.journals_differ)
    # Only the main process reads the checkpoint; the others may not even see its folder.
    found = world.broadcast(found)
    if trains and found is None and p.earlier is None:
        # Before the loop, which rounds the frozen weights where bf16 is asked for.
        _begin(p, world, model, guard, splits["train"])
    setup = _setup(p, world, splits, model, head, guard)
    loop = (FederatedLoop if p.federation else Loop)(setup, record, say)
    announce(p, loop, say)
    if found is not None:
        loop.load(*found)
        say(f"resumed after step {loop.step} of {p.total_steps}")
    if record is not None:
        # Another version, device or number of processes changes the last bits of a result.
        if changed := record.start(loop.step, loop.seconds):
            say(f"{changed}: the result may not be, to the bit, that of a run left alone")
        # Journals are cut back to the checkpoint: lines of steps after it are written again.
        record.start_journals(found[1]["journals"] if found else {})
    return loop


def attach(p: Prepared, model: nn.Module, head: list[str]) -> Guard:
    """Attaches the run's method to `model`, under a guard, and marks the head as trained.

    With `init_from`, the adapter begins with that run's weights; the head keeps its drawn ones.
    """
    # Frozen first: the method then marks what it trains.
    model.requires_grad_(False)
    chosen = p.config.chosen
    loaded = Loaded(chosen.kind, model)
    info = run_info(p.config, p.total_steps, p.sources)
    method = chosen.kind(chosen.settings, model, p.plan, info)
    if method.ranks_final_at > p.total_steps:
        # Only the last evaluation would count, of components that were still to change.
        raise UserError(
            f"{type(method).__name__}.ranks_final_at={method.ranks_final_at} is behind the run's "
            f"last step, {p.total_steps}: its components must be final within the run; plan them "
            "by run.total_steps, or train longer (max_steps= or epochs=)"
        )
    parameters = dict(model.named_parameters())
    for name in head:
        parameters[name].requires_grad_(True)
    guard = Guard(method, model, loaded)
    guard.attached(p.plan, head)
    if p.earlier is not None:
        carry_over(p.earlier, model, method, head)
        _refuse_not_finite(model, p.earlier.folder)
    return guard


def _model(p: Prepared, splits: dict[str, Tokens], say: Lines) -> tuple[nn.Module, list[str]]:
    """Returns the classifier and the names of its head's parameters."""
    c = p.config
    # A regression's head starts at the labels' mean, the best constant. If it started at 0, an
    # adapter at its usual rate would reach the mean through the encoder sooner than through the
    # head, and would lose the encoder's pretraining on the way (seen on STS-B).
    mean = float(np.mean(np.asarray(splits["train"].label))) if c.glue_task.regression else None
    model, head = backbone.load_model(
        p.model, c.glue_task.outputs, c.head_dropout, c.seed, mean, say
    )
    _refuse_not_finite(model, p.model.path)
    return model, head


def _place(p: Prepared, world: World, model: nn.Module, guard: Guard) -> None:
    """Moves the model and the method's state to the device.

    Start values are drawn on the CPU before, so that they are equal on every device.
    """
    model.to(world.device)
    speed_up(model, world.device)
    if p.config.compile:
        # Dynamic shapes: batches differ in length, and each length would otherwise be compiled.
        model.compile(dynamic=True)
    # The method made its state on the CPU, where its layers were; `load` moves it to theirs.
    guard.method.load(guard.state())


def _begin(p: Prepared, world: World, model: nn.Module, guard: Guard, train: Tokens) -> None:
    """Lets the method set start values that follow from weights or rows, equal in all processes."""
    c, method = p.config, guard.method
    if not overrides(type(method), "begin"):
        return
    if world.main:
        guard.begin(calibrator(c, model, method.layers.values(), train, world.device))
        model.zero_grad()  # those that training rows have left
    held = result.tensors_of(model, method.frozen())
    # All processes take the main one's values: a decomposition's last bits, and even its signs,
    # depend on the machine.
    sent = world.broadcast(result.snapshot(held) if world.main else None)
    if not world.main:
        result.restore(model, method.frozen(), sent)


def _setup(
    p: Prepared,
    world: World,
    splits: dict[str, Tokens],
    model: nn.Module,
    head: list[str],
    guard: Guard,
) -> Setup:
    """Returns the loop's inputs: which splits are trained on, scored and reported."""
    c, lengths = p.config, splits["train"].lengths
    # With select=heldout the development set is not looked at before the end.
    if p.heldout_rows is not None:
        scored = {"heldout": splits["heldout"]}
    else:
        scored = {k: splits[k] for k in c.glue_task.dev_splits}
    return Setup(
        config=c,
        model=model,
        head=head,
        guard=guard,
        lr=c.learning_rate(),
        train=splits["train"],
        course=(
            FederatedCourse(c, lengths, p.federation)
            if p.federation
            else Course(c, lengths, p.total_steps)
        ),
        scored=scored,
        reported={k: v for k, v in splits.items() if k not in ("train", "heldout")},
        world=world,
    )


def _refuse_not_finite(model: nn.Module, folder: Path) -> None:
    """Raises UserError if a parameter of `model`, read from `folder`, holds NaN or infinity."""
    if (bad := not_finite(dict(model.named_parameters()))) is not None:
        raise UserError(
            f"the weights in {folder} hold NaN or infinity: {bad}; they are damaged, or were saved "
            "by a run that had diverged: fetch or make them again"
        )


def _tokens(p: Prepared, say: Lines) -> dict[str, Tokens]:
    """Returns every split tokenised, or read from the cache, with training cut to the run's rows.

    Raises UserError if a split is mostly unknown tokens to this tokenizer.
    """
    tokenizer = backbone.shared_tokenizer(p.model)
    cache = Path(p.config.results) / "cache"
    words = backbone.fingerprint(p.model, tokenizer_only=True)
    number = sum(len(rows.idx) for rows in p.rows.values())

    def begin() -> None:
        """Is called if the cache does not hold the tokens."""
        if number >= MANY_ROWS:
            say(f"tokenising {number:,} rows, once for all runs on them")

    # AX, which may be added later, is no part of the data's fingerprint and has its own place in
    # the cache, so that MNLI need not be tokenised again.
    own = {k: v for k, v in p.rows.items() if k in p.config.glue_task.splits}
    added = {k: v for k, v in p.rows.items() if k not in own}
    splits: dict[str, Tokens] = {}
    for name, rows in ((p.fingerprints["data"], own), (fingerprint(added), added)):
        if not rows:  # nothing was added
            continue
        place = f"{name} {words}"
        splits |= tokenised(cache, place, rows, tokenizer, p.config.max_length, p.segments, begin)
    for split, tokens in splits.items():
        where = f"{p.config.task.name}'s {split}"
        vocabulary.check_known(tokens.ids, len(tokens), tokenizer, where)
    # Cut after tokenising: runs with other limits or held-out rows then share one cache.
    whole = splits["train"]
    splits["train"] = whole.take(p.train_rows)
    if p.heldout_rows is not None:
        splits["heldout"] = whole.take(p.heldout_rows)
    return splits
