"""`python -m dora.export RUN_DIR`: a finished run's best weights for others, with a model card.

An adapter as stock PEFT loads it, or a whole model as plain Transformers loads it (--merge, and full
fine-tuning). Nothing here trains, and nothing outside the named folder is written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dora.adapters.peft_config import rebuilt, stored_params
from dora.data.predictions import UNREADABLE
from dora.errors import UserError
from dora.files import check_safetensors, new_folder, open_own, taken, to_json, write_atomic
from dora.records import artefacts
from dora.records.record import read_finished
from dora.records.rescore import disagreement
from dora.records.schema import Run

_MOST_CONFIGURED = 2**22  # bytes of adapter_config.json


def unfit(run: Run, folder: Path, merge: bool, base: Path | None) -> list[str]:
    """All that keeps the finished run in `folder` from being exported in this way."""
    problems = _unexportable(run, folder, merge, base)
    if not problems:
        full = run["config"]["method"]["name"] == "full"
        names = artefacts.of_model(run) or [artefacts.FULL_WEIGHTS] if full else artefacts.ADAPTER
        problems = artefacts.damaged(folder, run, names)
    try:
        wrong = disagreement(folder, run)  # the card shows the scores
    except UNREADABLE as e:
        wrong = f"its predictions.npz cannot be read ({e})"
    return (
        problems
        if wrong is None
        else [*problems, f"{folder}: {wrong}; train it again with force=true"]
    )


def _unexportable(run: Run, folder: Path, merge: bool, base: Path | None) -> list[str]:
    """What is missing for such an export, or cannot be read, or is not the run's."""
    if run["config"]["method"]["name"] == "full":
        problems = []
        if not (folder / "model" / "config.json").is_file():
            problems.append(
                f"{folder} trained every weight and kept none: train it again with keep_model=true force=true"
            )
        if merge or base is not None:
            problems.append(
                "--merge and --base are for adapters: full fine-tuning is a whole model as it is"
            )
        return problems
    problems = []
    if run["model"]["random_weights"]:
        problems.append(
            f"{folder} adapts random weights, which are in no file: there is nothing to hand on"
        )
    again = "train it again with force=true"
    if not (folder / "adapter").is_dir():
        return [
            *problems,
            f"{folder} holds no adapter, its record was kept without weights: {again}",
        ]
    try:
        check_safetensors(folder / "adapter" / "adapter_model.safetensors")
        read_config(run, folder)
        stored = stored_params(folder / "adapter" / "adapter_model.safetensors")
        if stored != run["params"]["adapter_end"]:
            problems.append(
                f"{folder / 'adapter'} holds {stored:,} adapter parameters, run.json says "
                f"{run['params']['adapter_end']:,}: it is not this run's; {again}"
            )
    except UserError as e:
        problems += [f"{p}; {again}" for p in e.problems]
    return problems


def read_config(run: Run, folder: Path) -> dict[str, Any]:
    """adapter_config.json of the run in `folder`, made anew. Raises UserError where what lies there is not equal to it."""
    file = "adapter/adapter_config.json"
    try:
        with open_own(folder, file, _MOST_CONFIGURED) as f:
            found = json.load(f)
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{folder / file} cannot be read: {e}") from e
    try:
        return rebuilt(run, found)
    except UserError as e:
        raise UserError(
            *(f"{folder / file} is not as the run wrote it: {p}" for p in e.problems)
        ) from e


def export(folder: Path, to: Path, merge: bool = False, base: Path | None = None) -> None:
    """Writes the run in `folder` into `to`, which must be absent or empty and appears whole or not at all.

    `merge`: the base model with the adapter added, instead of the adapter. `base`: where the base model's
    folder is now, if not where it was in training. Raises UserError with every problem before a model is
    loaded.
    """
    problems = taken(to)
    try:
        run = read_finished(folder)
        problems = unfit(run, folder, merge, base) + problems
    except UserError as e:
        problems = [*e.problems, *problems]
    if problems:
        raise UserError(*problems)

    from dora.sharing import merging, model_card

    if run["config"]["method"]["name"] == "full":
        with new_folder(to) as part:
            merging.save_tuned(run, folder, part)
            write_atomic(part / "README.md", model_card.model_card(run, None))
        return
    config = read_config(run, folder)
    place = merging.find_base(run, config, base) if merge or base is not None else None
    if run["model"]["revision"] is not None:
        config |= {"revision": run["model"]["revision"]}  # PEFT's name for the base model's
    elif base is not None:
        config |= {"base_model_name_or_path": str(base.expanduser().resolve())}
    with new_folder(to) as part:
        if merge and place is not None:
            merging.save_merged(run, folder, place, part)
        else:
            weights = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
            write_atomic(part / "adapter_model.safetensors", weights)
            write_atomic(part / "adapter_config.json", to_json(config))
        write_atomic(part / "README.md", model_card.model_card(run, config, merge))
