"""Predicts splits that were added to the data, or corrected, after a run was done, such as AX.

The run's kept weights predict them, without training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.torch
from torch import Tensor

from dora.data import npz
from dora.data.predictions import as_npz, save, text_sums, unpredicted
from dora.errors import UserError, reason
from dora.preparing.prepare import Prepared
from dora.records import artefacts
from dora.records.provenance import provenance
from dora.records.record import Record, now
from dora.training.build import build
from dora.training.finite import not_finite
from dora.training.lines import Lines
from dora.training.loop import Loop
from dora.training.processes import World


def predict_added(p: Prepared, world: World, record: Record, say: Callable[[str], None]) -> None:
    """Predicts the unlabelled splits of the data whose rows a done run's predictions.npz lacks.

    `record`: the run's open record. `say`: receives one line on the splits added, or on the reason
    why none was. The run stays done whatever goes wrong.
    """
    missing = world.broadcast(unpredicted(p.folder, p.rows))
    if not missing:
        return
    # Every process checks the same files: if one gave up alone, the others would wait for it.
    run = world.broadcast(record.data)
    names = " and ".join(split.upper() for split in missing)
    try:
        tensors = _kept_weights(p, run)
        logits = _predict(build(p, world, None, Lines(None), trains=False), tensors, missing)
        if world.main:
            _store(p, world, record, logits)
        text = (
            f"{names} predicted from the kept weights, without training: "
            f"{p.folder / artefacts.PREDICTIONS}"
        )
    except (UserError, OSError) as e:
        text = f"{names} not predicted: {e}"
    except Exception as e:  # the run's results do not depend on these predictions
        text = (
            f"{names} not predicted: {p.folder} holds weights or predictions that cannot be used "
            f"({reason(e)}); force=true trains it again and predicts all there is"
        )
    if world.main:
        say(text)


def _kept_weights(p: Prepared, run: dict[str, Any]) -> dict[str, Tensor]:
    """Returns the best evaluation's tensors by name.

    Raises UserError if they are absent, or not the ones whose checksums the record holds.
    """
    form = p.config.chosen.kind.result
    name = artefacts.weights_name(form)
    file = p.folder / name
    if not file.is_file():
        again = "keep_model=true force=true" if form == "model" else "force=true"
        raise UserError(
            f"{p.folder} kept no weights; {again} trains it again and predicts all there is"
        )
    artefacts.check(p.folder, run, name, artefacts.PREDICTIONS)
    return safetensors.torch.load_file(file)


def _predict(loop: Loop, tensors: dict[str, Tensor], splits: list[str]) -> dict[str, np.ndarray]:
    """Returns the logits of `splits` that these weights give, by split.

    Raises UserError if the weights do not fit the model or are not finite.
    """
    # A tensor that is missing would leave its start value in place, and predictions of no model.
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
    """Writes the new logits into predictions.npz, and their note and checksums into the record.

    The record is written first and names the checksums of both files, the present one and the one
    to come. If the second write fails, the split is still missing, and the command tries again.
    """
    # Earlier predictions for other rows of these splits go, the last evaluation's among them.
    arrays = {
        name: array
        for name, array in npz.load(p.folder).items()
        if logits.keys().isdisjoint(name.split("/"))
    }
    results, here = record.data["results"], provenance()
    # The kept weights are the best ones; they are the last ones too if the best step was the last.
    whose = [w for w in ("last", "best") if results[w]["step"] == results["best"]["step"]]
    for split, values in logits.items():
        arrays |= {f"{which}/{split}/logits": values for which in whose}
        arrays[f"{split}/ids"] = p.rows[split].idx
        arrays[f"{split}/texts"] = text_sums(p.rows[split])
    rows = {
        **record.data["data"]["rows"],
        **{split: len(values) for split, values in logits.items()},
    }
    # The split may be predicted by another machine or version than the one that trained.
    about = {
        "host": here["host"],
        "git": here["git"],
        "device": str(world.device),
        "world_size": world.size,
    }
    note = {"splits": list(logits), "time": now(), **about}
    record.update(
        data={**record.data["data"], "rows": rows},
        added=[*record.data.get("added", []), note],
        files=_files(p, record.data, as_npz(arrays)),
    )
    save(p.folder / artefacts.PREDICTIONS, arrays)


def _files(p: Prepared, run: dict[str, Any], content: bytes) -> dict[str, Any]:
    """Returns the record's entry `files` with the new predictions' checksum beside the old one."""
    name = artefacts.PREDICTIONS
    before = artefacts.sums(p.folder, [name])[name]
    return {**run["files"], name: {**artefacts.sum_of(content), artefacts.BEFORE: before}}
