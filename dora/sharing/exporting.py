"""`python -m dora.export RUN_DIR`: a finished run's best weights for others, with a model card.

The result of the run's method decides the form: an adapter as stock PEFT loads it, adapters in the
layout of the `adapters` library, or a whole model as plain Transformers loads it. Nothing here
trains, and nothing outside the named folder is written.
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
from dora.records.about_method import about_method
from dora.records.record import read_finished
from dora.records.rescore import disagreement
from dora.records.schema import Run
from dora.sharing import adapters_library

_MOST_CONFIGURED = 2**22  # bytes of adapter_config.json; 24 layers take 30,000
_AGAIN = "train it again with force=true"


def unfit(run: Run, folder: Path, merge: bool, base: Path | None) -> list[str]:
    """Returns every reason why the finished run in `folder` cannot be exported in this way."""
    result = about_method(run).result
    if result == "adapter":
        problems, names = _adapter_problems(run, folder, merge), list(artefacts.ADAPTER)
    elif result == "weights":
        problems, names = _weights_problems(run, folder), [artefacts.WEIGHTS]
    elif result == "modules":
        problems, names = _modules_problems(run, folder, merge), [artefacts.WEIGHTS]
    else:
        problems = _model_problems(folder, merge, base)
        names = artefacts.of_model(run) or [artefacts.FULL_WEIGHTS]
    # Checksums come second: a file that is absent or of another run has its own, clearer message.
    problems = problems or artefacts.damaged(folder, run, names)
    try:
        wrong = disagreement(folder, run)  # the card shows the scores
    except UNREADABLE as e:
        wrong = f"its predictions.npz cannot be read ({e})"
    return problems if wrong is None else [*problems, f"{folder}: {wrong}; {_AGAIN}"]


def _model_problems(folder: Path, merge: bool, base: Path | None) -> list[str]:
    """Returns the reasons against the export of a method that trains a whole model."""
    problems = []
    # keep_model is off by default: RoBERTa-base would take 500 MB a run.
    if not (folder / "model" / "config.json").is_file():
        problems.append(
            f"{folder} trained every weight and kept none: train it again with keep_model=true "
            "force=true"
        )
    if merge or base is not None:
        problems.append(
            "--merge and --base are for adapters: this run kept a whole model, exported as it is"
        )
    return problems


def _weights_problems(run: Run, folder: Path) -> list[str]:
    """Returns the reasons against the export of a method that trains some of the backbone."""
    problems = _random_base(run, folder)
    if not (folder / artefacts.WEIGHTS).exists():
        return [*problems, f"{folder} holds no weights, its record was kept without them: {_AGAIN}"]
    try:
        check_safetensors(folder / artefacts.WEIGHTS)
    except UserError as e:
        problems += [f"{p}; {_AGAIN}" for p in e.problems]
    return problems


def _modules_problems(run: Run, folder: Path, merge: bool) -> list[str]:
    """Returns the reasons against the export of a method that adds modules to the backbone."""
    problems = [*adapters_library.unfit(run, merge), *_weights_problems(run, folder)]
    return problems or adapters_library.file_problems(folder)


def _adapter_problems(run: Run, folder: Path, merge: bool) -> list[str]:
    """Returns the reasons against the export of a method that leaves an adapter."""
    problems = _random_base(run, folder)
    # PEFT refuses an adapter that adapts nothing.
    if not merge and not any(run["ranks"]["end"].values()):
        problems.append(f"{folder} has no live component, only a trained head: export with --merge")
    if not (folder / "adapter").is_dir():
        return [
            *problems,
            f"{folder} holds no adapter, its record was kept without weights: {_AGAIN}",
        ]
    file = folder / "adapter" / "adapter_model.safetensors"
    try:
        check_safetensors(file)
        read_config(run, folder)
        # In records made before checksums only this count tells whose adapter it is.
        stored = stored_params(file)
        expected = run["params"].get("in_peft_file") or run["params"]["adapter_end"]
        if stored != expected:
            problems.append(
                f"{file.parent} holds {stored:,} adapter parameters, run.json says "
                f"{expected:,}: it is not this run's; {_AGAIN}"
            )
    except UserError as e:
        problems += [f"{p}; {_AGAIN}" for p in e.problems]
    return problems


def _random_base(run: Run, folder: Path) -> list[str]:
    """Returns the reason against exporting what was trained on random backbone weights."""
    if not run["model"]["random_weights"]:
        return []
    return [f"{folder} adapts random weights, which are in no file: there is nothing to hand on"]


def read_config(run: Run, folder: Path) -> dict[str, Any]:
    """Rebuilds adapter_config.json of the run in `folder` from its record.

    Raises UserError where the file in `folder` cannot be read or differs from the rebuilt one: PEFT
    would follow whatever else it holds.
    """
    file = "adapter/adapter_config.json"
    try:
        with open_own(folder, file, _MOST_CONFIGURED) as f:
            found = json.load(f)
    # RecursionError: JSON nested a thousand levels deep, which only somebody else's file has.
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{folder / file} cannot be read: {e}") from e
    try:
        return rebuilt(run, found)
    except UserError as e:
        texts = (f"{folder / file} is not as the run wrote it: {p}" for p in e.problems)
        raise UserError(*texts) from e


def export(folder: Path, to: Path, merge: bool = False, base: Path | None = None) -> None:
    """Writes the run in `folder` into `to`, which must be absent or empty.

    `to` appears whole or not at all. `merge`: write the base model with the adapter added, instead
    of the adapter; a method whose result is trained backbone tensors is always written merged.
    `base`: the base model's folder, if it has moved since training. Raises UserError, with every
    problem that shows before a model is loaded.
    """
    problems = taken(to)
    try:
        run = read_finished(folder)
        problems = unfit(run, folder, merge, base) + problems  # the run's before the target's
    except UserError as e:
        problems = [*e.problems, *problems]
    if problems:
        raise UserError(*problems)

    result = about_method(run).result
    if result == "adapter":
        _export_adapter(run, folder, to, merge, base)
        return
    if result == "modules":
        _export_modules(run, folder, to, base)
        return
    # Late: PyTorch and Transformers take seconds, and mistakes are told without them.
    from dora.sharing import merging, model_card

    if result == "weights":
        place = merging.find_base(run, merging.recorded_base(run), base)
        with new_folder(to) as part:
            merging.save_with_weights(run, folder, place, part)
            write_atomic(part / "README.md", model_card.model_card(run, None))
        return
    with new_folder(to) as part:
        merging.save_tuned(run, folder, part)
        write_atomic(part / "README.md", model_card.model_card(run, None))


def _export_modules(run: Run, folder: Path, to: Path, base: Path | None) -> None:
    """Writes the files of the `adapters` library, and the card."""
    from dora.sharing import merging, model_card  # late, as in `export`

    name = merging.recorded_base(run)
    if base is not None:
        place = merging.find_base(run, name, base)
        name = name if run["model"]["revision"] is not None else str(place.path)
    with new_folder(to) as part:
        adapters_library.save(run, folder, part, name or run["config"]["model"])
        write_atomic(part / "README.md", model_card.model_card(run, None))


def _export_adapter(run: Run, folder: Path, to: Path, merge: bool, base: Path | None) -> None:
    """Writes PEFT's two files, or with `merge` the merged model, and the card."""
    from dora.sharing import merging, model_card  # late, as in `export`

    config = read_config(run, folder)
    place = None
    if merge or base is not None:  # a --base without --merge is checked too: its path is written
        place = merging.find_base(run, config["base_model_name_or_path"], base)
    if run["model"]["revision"] is not None:
        config |= {"revision": run["model"]["revision"]}  # PEFT's name for the base model's
    elif base is not None:
        # A hub's name stays right wherever the files lie; a folder's path does not.
        config |= {"base_model_name_or_path": str(base.expanduser().resolve())}
    with new_folder(to) as part:
        if merge and place is not None:
            merging.save_merged(run, folder, place, part)
        else:
            # The bytes as the run wrote them: their checksum is the one that was just checked.
            weights = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
            write_atomic(part / "adapter_model.safetensors", weights)
            write_atomic(part / "adapter_config.json", to_json(config))
        write_atomic(part / "README.md", model_card.model_card(run, config, merge))
