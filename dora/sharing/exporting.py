"""A finished run's best weights, written for others with a model card.

The result of the run's method decides the form: an adapter as stock PEFT loads it, adapters in the
layout of the `adapters` library, or a whole model as plain Transformers loads it. Nothing here
trains, and nothing outside the named folder is written.

PEFT asks the base model how many classes there are and what they are called, and Transformers reads
a config.json beside an adapter only where the base model's weights lie there too. So an adapter is
exported with its base model in the same folder, which names itself as the base: one line then loads
it in either library. `alone` leaves the base model out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dora.adapters.peft_config import holds_magnitudes, rebuilt
from dora.checked_files import check_safetensors, open_own
from dora.errors import UserError
from dora.files import new_folder, taken, to_json, write_atomic
from dora.records import artefacts
from dora.records.record import read_finished
from dora.records.rescore import unlike_predictions
from dora.records.schema import Run
from dora.sharing import adapters_library
from dora.sharing.form import Form

if TYPE_CHECKING:
    from dora.backbones.backbone import Folder as BaseFolder

_MOST_CONFIGURED = 2**22  # bytes of adapter_config.json; 24 layers take 30,000
_AGAIN = "train it again with force=true"


def unfit(run: Run, folder: Path, form: Form) -> list[str]:
    """Returns every reason why the finished run in `folder` cannot be exported in this way."""
    result, merge, base = run["method"]["result"], form.merge, form.base
    if result == "adapter":
        problems, names = _adapter_problems(run, folder, merge), list(artefacts.ADAPTER)
    elif result == "weights":
        problems, names = _weights_problems(run, folder), [artefacts.WEIGHTS]
    elif result == "modules":
        problems, names = _modules_problems(run, folder, merge), [artefacts.WEIGHTS]
    else:
        problems = _model_problems(folder, merge, base)
        names = artefacts.of_model(run) or [artefacts.FULL_WEIGHTS]
    if form.alone and (merge or result in ("weights", "model")):
        why = "with --merge there is no adapter" if merge else "this run's method leaves no adapter"
        problems.append(f"--adapter-only: {why}")
    if form.alone and form.repository and result == "adapter" and run["model"]["revision"] is None:
        problems.append(
            "--adapter-only: the base model is a folder of this machine, which nobody else has: "
            "push without --adapter-only, or with --merge"
        )
    # Checksums come second: a file that is absent or of another run has its own, clearer message.
    problems = problems or artefacts.damaged(folder, run, names)
    wrong = unlike_predictions(folder, run)  # the card shows the scores
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
    file = folder / artefacts.ADAPTER_WEIGHTS
    try:
        check_safetensors(file)
        read_config(run, folder)
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

    Raises UserError where the file in `folder` cannot be read, or names a base model or a head that
    no run does.
    """
    file = artefacts.ADAPTER_CONFIG
    try:
        with open_own(folder, file, _MOST_CONFIGURED) as f:
            found = json.load(f)
    # RecursionError: JSON nested a thousand levels deep, which only somebody else's file has.
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{folder / file} cannot be read: {e}") from e
    try:
        weights = folder / artefacts.ADAPTER_WEIGHTS  # one that is absent is another message's
        return rebuilt(run, found, weights.is_file() and holds_magnitudes(weights))
    except UserError as e:
        texts = (f"{folder / file} is not as the run wrote it: {p}" for p in e.problems)
        raise UserError(*texts) from e


def export(folder: Path, to: Path, form: Form) -> None:
    """Writes the run in `folder` into `to`, which must be absent or empty.

    `to` appears whole or not at all. Raises UserError, with every problem that shows before a model
    is loaded.
    """
    problems = taken(to)
    try:
        run = read_finished(folder)
        problems = unfit(run, folder, form) + problems  # the run's before the target's
    except UserError as e:
        problems = [*e.problems, *problems]
    if problems:
        raise UserError(*problems)
    # Late: PyTorch and Transformers take seconds, and mistakes are told without them.
    from dora.sharing import merging, model_card

    result = run["method"]["result"]
    to = to.expanduser().resolve()  # the folder may name itself
    config = place = None
    if result == "adapter":
        config = read_config(run, folder)
        place = _base_of_adapter(run, str(config["base_model_name_or_path"]), form)
    elif result == "weights":
        place = merging.find_base(run, merging.recorded_base(run), form.base)
    with new_folder(to) as part:
        if config is not None:
            _save_adapter(
                run, folder, part, form, place, {**config, **_own_base(run, to, form, place)}
            )
        elif result == "modules":
            adapters_library.save(run, folder, part, _base_of_modules(run, form))
        elif place is not None:
            merging.save_with_weights(run, folder, place, part)
        else:
            merging.save_tuned(run, folder, part)
        write_atomic(part / "README.md", model_card.model_card(run, config, form))


def _base_of_modules(run: Run, form: Form) -> str:
    """Returns the name or folder of the base model that added modules belong to."""
    from dora.sharing import merging  # late, as in `export`

    name, known = merging.recorded_base(run), str(run["config"]["model"])
    local = run["model"]["revision"] is None
    if form.base is not None:
        place = merging.find_base(run, name, form.base)
        name = str(place.path) if local else name
    # On the hub a folder of this machine is no name.
    return known if local and form.repository else name or known


def _base_of_adapter(run: Run, recorded: str, form: Form) -> BaseFolder | None:
    """Returns the base model's folder where the export needs it, else None.

    Raises UserError where it is not found, or is another than the run's.
    """
    from dora.sharing import merging  # late, as in `export`

    if form.alone and form.base is None:
        return None  # a --base is checked all the same, since its path is written
    try:
        return merging.find_base(run, recorded, form.base)
    except UserError as e:
        also = "" if form.merge or form.alone else "; or export the adapter alone: --adapter-only"
        raise UserError(*(f"{p}{also}" for p in e.problems)) from e


def _own_base(run: Run, to: Path, form: Form, place: BaseFolder | None) -> dict[str, str]:
    """Returns the entries of adapter_config.json that say where the base model is."""
    if not form.alone:
        return {"base_model_name_or_path": form.repository or str(to)}
    if run["model"]["revision"] is not None:
        return {"revision": run["model"]["revision"]}  # PEFT's name for the base model's
    # A hub's name stays right wherever the files lie; a folder's path does not.
    return {} if place is None else {"base_model_name_or_path": str(place.path.resolve())}


def _save_adapter(
    run: Run, folder: Path, part: Path, form: Form, place: BaseFolder | None, config: dict[str, Any]
) -> None:
    """Writes the merged model, or PEFT's two files and, unless they go alone, the base model."""
    from dora.sharing import merging  # late, as in `export`

    if form.merge and place is not None:
        merging.save_merged(run, folder, place, part)
        return
    if not form.alone and place is not None:
        merging.save_base(run, place, part)
    # The bytes as the run wrote them: their checksum is the one that was just checked.
    weights = (folder / artefacts.ADAPTER_WEIGHTS).read_bytes()
    write_atomic(part / "adapter_model.safetensors", weights)
    write_atomic(part / "adapter_config.json", to_json(config))
