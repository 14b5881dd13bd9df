"""Trains a run unless it is done; a done one is at most given predictions of splits added since."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dora.data.predictions import unpredicted
from dora.errors import NotNow, UserError
from dora.preparing.prepare import Prepared
from dora.process import group
from dora.records import packed
from dora.records.about_method import trains_all
from dora.records.cleaning import tidy
from dora.records.record import refuse_diverged, scores_in_words
from dora.records.run_json import read, read_done
from dora.records.schema import Run


def _look(prepared: Prepared) -> tuple[Run | None, list[str]]:
    """Returns the record of a run that is done, else None, and the splits that it must yet predict.

    Several processes take the main one's answer: another sweep may finish the run, or predict these
    splits, between their looks, and the processes that looked before would wait for the others.
    """
    if group.size() == 1:
        return _found(prepared)
    from dora.training import processes  # late: it imports PyTorch

    # Left open: their run goes on with this group.
    world = processes.start(prepared.config.device)
    return world.broadcast(_found(prepared) if world.main else (None, []))


def _found(prepared: Prepared) -> tuple[Run | None, list[str]]:
    """Returns what `_look` does, as this process finds it."""
    folder = prepared.record_folder()
    done = read_done(folder)
    return done, [] if done is None else unpredicted(folder, prepared.rows)


def train_unless_done(
    prepared: Prepared,
    train: Callable[[], Run],
    say: Callable[[str], None],
    force: str = "force=true",
) -> tuple[Path, Run]:
    """Returns the run's directory and record: as they are if it is done, else those of `train`.

    A done run that lacks predictions of unlabelled rows, such as AX, is given to `train` for these
    alone. `say`: receives the lines on a done run. `force`: the caller's spelling of the setting
    that trains it again. Raises UserError if a done run kept no model and keep_model asks for it,
    RunFailed if the run diverged too often, and whatever `train` raises.
    """
    folder = prepared.record_folder()
    done, added = (None, []) if prepared.config.force else _look(prepared)
    if done is None:
        if folder != prepared.folder:  # the packed record of a run that diverged
            refuse_diverged(read(folder))
        return prepared.folder, train()
    if prepared.config.keep_model and trains_all(done) and not (folder / "model").exists():
        raise UserError(
            f"{packed.shown(folder)} is done but kept no model; add {force} to train it again"
        )
    tidy(folder)
    say(f"already done: {packed.shown(folder)} ({scores_in_words(done)}); {force} trains it again")
    if added:
        try:
            return prepared.folder, train()
        # Not writable, or another process is at work there. The scores are good all the same.
        except (UserError, NotNow) as e:
            say(f"{' and '.join(added).upper()} not predicted: {e}")
    return folder, done
