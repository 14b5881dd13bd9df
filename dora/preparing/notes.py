"""Notes on a run's model, data and settings, which are shown before it trains."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dora.configuration.config import Config
from dora.data.tasks import Rows, labelled
from dora.methods.schedule import Schedule
from dora.plain import counted
from dora.preparing.federation import Federation, steps_a_round
from dora.preparing.length import given_length
from dora.preparing.prepare import Prepared
from dora.preparing.unused import unused_notes
from dora.records.about_data import other_sizes

# A round's share of steps at rate 0 that nobody need be told of.
IDLE_SHARE = 0.05
# The way out that every note on embedded models or data names.
REAL = "real ones: model=roberta_base (or another) and data=hub, or data=dir data.dir=GLUE"


def notes_on(p: Prepared, here: bool = True) -> tuple[str, ...]:
    """Returns all notes on a run. `here`: it is to be trained on this machine."""
    c = p.config
    idle = idle_note(c, p.federation)
    known = (embedded_note(c), c.model.note, *rows_notes(c, p.rows), idle)
    unused = unused_notes(c, p.plan, p.search is not None, here)
    return (*filter(None, known), *unused, *beyond_notes(c, len(p.train_rows), p.total_steps))


def clients_notes(config: Config, federation: Federation | None) -> list[str]:
    """Returns the note on clients without rows and the steps that this costs; none without such.

    It is not among `notes_on`, which a sweep shows once for all seeds: each seed deals other rows.
    """
    empty = sum(not len(part) for part in federation.rows) if federation else 0
    if federation is None or not empty:
        return []
    clients, given = config.fed.clients, given_length(config)
    verb = "has" if empty == 1 else "have"
    said = f"{empty:,} of {counted(clients, 'client')} {verb} no rows"
    # `plan_length` took the length that is given for one of rounds with all clients.
    expected = federation.rounds * steps_a_round(config.fed, clients)
    if config.fed.rounds is None or given is None or federation.total_steps == expected:
        return [f"{said} and {'takes' if empty == 1 else 'take'} no part"]
    rounds = "1 round is" if federation.rounds == 1 else f"{federation.rounds:,} rounds are"
    return [f"{said}: {rounds} {federation.total_steps:,} steps, and not {given}"]


def idle_note(config: Config, federation: Federation | None) -> str | None:
    """Returns the note on rounds that train a large part of their steps at rate 0, else None."""
    if federation is None or config.fed.restart != "round":
        return None
    steps = federation.local_steps
    # As `FederatedCourse.share` has it. A warm-up's first step alone has rate 0.
    schedule = Schedule(config.schedule, config.warmup).of_part(steps, federation.total_steps)
    share = 1 / steps
    if schedule.share(1, steps) > 0 or share <= IDLE_SHARE:
        return None
    return (
        f"fed.restart=round with warmup={config.warmup:g}: one of each round's {steps} steps, the "
        f"first, has rate 0, {100 * share:.0f} % of the training; warmup=0 gives it lr"
    )


def embedded_note(config: Config) -> str | None:
    """Returns the note that belongs to scores of an embedded model or data; None for real ones."""
    if not config.embedded:
        return None
    parts = []
    if config.model.embedded and not config.model.path:
        parts.append(f"model {config.model_name}")
    if config.data.source == "mini":
        parts.append("data mini (generated)")
    verdict = "for trying the suite, scores say nothing about GLUE"
    if config.data.source != "mini":
        verdict = "small and briefly pretrained, scores are not to be compared with published ones"
    return f"embedded {' and '.join(parts)}: {verdict}; {REAL}"


def rows_notes(config: Config, rows: Mapping[str, Rows]) -> list[str]:
    """Returns the notes on real data that are not GLUE's whole rows; none for GLUE's, and for mini."""
    if config.data.source == "mini":
        return []
    task = config.glue_task
    # A test split may be absent. So may AX, which can be added when the run is done.
    none = {split: 0 for split in task.splits if not labelled(split)}
    other = other_sizes(task, none | {split: len(held) for split, held in rows.items()})
    said = {k: f"{k} {there:,} rows (GLUE has {size:,})" for k, (there, size) in other.items()}
    for split, held in rows.items():
        if not labelled(split) and split not in said and not _numbered(held):
            said[split] = f"{split} with other ids than 0 to {len(held) - 1:,}, each once"
    scored = [text for split, text in said.items() if labelled(split)]
    submitted = [text for split, text in said.items() if not labelled(split)]
    notes = []
    if scored:
        named = "" if config.data.name else "; data.name=WORD names them in paths and tables"
        whole = f"not GLUE's whole rows: {task.name} {', '.join(scored)}; tables say so{named}"
        notes.append(whole)
    if submitted:
        notes.append(f"no predictions that dora.submit takes: {task.name} {', '.join(submitted)}")
    return notes


def _numbered(rows: Rows) -> bool:
    """Tells whether the ids are 0 to n - 1, each once; the server pairs rows by them."""
    return np.array_equal(np.sort(rows.idx), np.arange(len(rows)))


def beyond_notes(config: Config, train: int, steps: int) -> list[str]:
    """Returns a note for each setting that exceeds the run's rows or steps.

    `train`: the rows trained on. Notes, not errors: a sweep may go over tasks of all sizes.
    """
    task, limit, every = config.task.name, config.limit_train, config.eval_every
    notes = []
    if limit is not None and limit > train:
        notes.append(f"limit_train={limit}: {task} has {train:,} rows to train on, all are used")
    if every is not None and every > steps:
        notes.append(
            f"eval_every={every}: {task} is trained for {steps:,} steps, and evaluated after the "
            "last one alone"
        )
    return notes
