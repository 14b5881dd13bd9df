"""Splits that came after a run was done, such as AX beside MNLI: predicted from its kept weights,
without training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.torch
from torch import Tensor

from dora.data import npz
from dora.data.predictions import packed, save, unpredicted
from dora.errors import UserError
from dora.records import artefacts
from dora.records.provenance import provenance
from dora.records.record import Record, now
from dora.training import processes
from dora.training.finite import not_finite
from dora.training.loop import Loop
from dora.training.prepare import Prepared
from dora.training.processes import World


def predict_added(
    p: Prepared, world: World, record: Record, build: Callable[[], Loop], say: Callable[[str], None]
) -> None:
    """Adds to a done run's predictions.npz the unlabelled splits that it lacks and the data hold by
    now.

    `record` is open, and `build` makes the run's loop as it was before its first step. Says in one
    line what was added, or why nothing was: whatever goes wrong, the run stays done.
    """
    missing = processes.broadcast(world, unpredicted(p.folder, p.rows))
    if not missing:
        return
    # Every process checks the same files: one that gave up alone would leave the others waiting for
    # it.
    run = processes.broadcast(world, record.data)
    names = " and ".join(split.upper() for split in missing)
    try:
        tensors = _kept_weights(p, run)
        logits = _predict(build(), tensors, missing)
        if world.main:
            _store(p, world, record, logits)
        text = f"{names} predicted from the kept weights, without training: {p.folder / 'predictions.npz'}"
    except (UserError, OSError) as e:
        text = f"{names} not predicted: {e}"
    except Exception as e:  # the results that are there do not depend on it
        text = (
            f"{names} not predicted: {p.folder} holds weights or predictions that cannot be used "
            f"({type(e).__name__}: {e}); force=true trains it again and predicts all there is"
        )
    if world.main:
        say(text)


def _kept_weights(p: Prepared, run: dict[str, Any]) -> dict[str, Tensor]:
    """Returns the best evaluation's tensors by name. Raises UserError where they are absent or
    damaged.
    """
    whole = p.config.chosen.kind.result == "model"
    name = artefacts.FULL_WEIGHTS if whole else artefacts.WEIGHTS
    file = p.folder / name
    if not file.is_file():
        again = "keep_model=true force=true" if whole else "force=true"
        raise UserError(
            f"{p.folder} kept no weights; {again} trains it again and predicts all there is"
        )
    artefacts.check(p.folder, run, name, artefacts.PREDICTIONS)
    return safetensors.torch.load_file(file)


def _predict(loop: Loop, tensors: dict[str, Tensor], splits: list[str]) -> dict[str, np.ndarray]:
    """Returns logits by split, from these weights. Raises UserError where they do not fit the
    model.
    """
    trained = loop.result().keys()
    if lacking := trained - tensors.keys():
        raise UserError(
            f"the kept weights lack {', '.join(sorted(lacking)[:3])}; force=true trains again"
        )
    if (bad := not_finite(tensors)) is not None:
        raise UserError(f"the kept weights hold NaN or infinity: {bad}; force=true trains again")
    if loop.setup.method.result == "model":  # its file may hold buffers, too
        tensors = {name: tensors[name] for name in trained}
    loop.put(tensors)
    return {split: loop.predict(loop.setup.reported[split]) for split in splits}


def _store(p: Prepared, world: World, record: Record, logits: dict[str, np.ndarray]) -> None:
    """Record first, predictions last: a write that fails leaves the split missing, so the command
    tries again.

    The record then names the sums of both files, those that were there and those to come.
    """
    arrays = npz.load(p.folder)
    results, here = record.data["results"], provenance()
    whose = [w for w in ("last", "best") if results[w]["step"] == results["best"]["step"]]
    for split, values in logits.items():
        arrays |= {f"{which}/{split}/logits": values for which in whose}
        arrays[f"{split}/ids"] = p.rows[split].idx
    rows = {
        **record.data["data"]["rows"],
        **{split: len(values) for split, values in logits.items()},
    }
    about = {
        "host": here["host"],
        "git": here["git"],
        "device": str(world.device),
        "world_size": world.size,
    }
    note = {"splits": list(logits), "time": now(), **about}
    files = _files(p, record.data, packed(arrays))
    record.update(
        data={**record.data["data"], "rows": rows},
        added=[*record.data.get("added", []), note],
        **files,
    )
    save(p.folder / "predictions.npz", arrays)


def _files(p: Prepared, run: dict[str, Any], content: bytes) -> dict[str, Any]:
    """`files` of the record with the new predictions' sums; nothing where the record has no
    checksums.
    """
    if "files" not in run:
        return {}
    name = artefacts.PREDICTIONS
    before = artefacts.sums(p.folder, [name])[name]
    return {
        "files": {**run["files"], name: {**artefacts.sum_of(content), artefacts.BEFORE: before}}
    }
