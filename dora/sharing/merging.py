"""A finished run as one whole model for plain Transformers.

Three ways lead there: an adapter merged into its base model, trained backbone tensors put in the
place of the base model's, and a whole model that full fine-tuning kept. A fourth writes the base
model as it is, for an adapter that lies beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from dora.adapters.peft import factor_name, magnitude_name, merged
from dora.adapters.peft_config import hub_name, hub_revision
from dora.backbones import backbone
from dora.backbones.architectures import architecture_of
from dora.backbones.backbone import Folder
from dora.backbones.model_config import read_config
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.files import plainly
from dora.package import ASSETS
from dora.plain import cut
from dora.records.artefacts import ADAPTER_WEIGHTS, WEIGHTS
from dora.records.schema import Run


def recorded_base(run: Run) -> str:
    """Returns the base model's hub repository or folder as run.json has it.

    Serves runs without an adapter_config.json. Returns an empty string where the record names
    neither, as for a model that came with a Python package. Raises UserError where the record,
    which may be somebody else's, names a repository or revision that no hub has.
    """
    model = run["model"]
    if (name := model.get("hub")) is not None:
        if hub_name(name) is None or hub_revision(model["revision"]) is None:
            raise UserError(
                f"run.json names {cut(name)} at revision {cut(model['revision'])} as the base "
                "model, which is none of the hub; name the model's folder with --base FOLDER"
            )
        return str(name)
    return str(model.get("path") or "")


def _package(run: Run) -> str | None:
    """Returns the Python package that the base model came with, or None.

    A name with a dot is refused: looking for it would import the package before the dot.
    """
    name = run["model"].get("package")
    return name if isinstance(name, str) and name.isidentifier() else None


def find_base(run: Run, recorded: str, base: Path | None) -> Folder:
    """Returns the folder of the base model that the run trained on.

    `base`: where the user says it is; else it is looked for at `recorded`, a hub repository or a
    folder. Raises UserError where there is none, or its fingerprint is not the run's.
    """
    revision = run["model"]["revision"]
    embedded = ASSETS / run["config"]["model"]
    # A revision is recorded for models of the hub alone.
    hub = recorded if base is None and revision is not None else None
    # An embedded model is found by name: the package may lie elsewhere than in training.
    moved = embedded.is_dir() and not (recorded and Path(recorded).is_dir())
    path = base or (embedded if moved else recorded)
    package = None if hub or (path and Path(path).is_dir()) else _package(run)
    if not path and package is None:
        raise UserError(
            "run.json does not say where the base model lies; name its folder with --base FOLDER"
        )
    try:
        place = None if hub or package else str(path)
        folder = backbone.locate(place, package=package, hub=hub, revision=revision or "main")
    except UserError as e:
        raise UserError(*(f"{p}; or name its folder with --base FOLDER" for p in e.problems)) from e
    # A folder's name proves nothing: another checkpoint may lie there since.
    found, expected = backbone.fingerprint(folder), run["fingerprints"]["model"]
    if found != expected:
        raise UserError(
            f"{folder.path} is not the model this run trained on: configuration, tokenizer and "
            f"weights have the fingerprint {found[:12]}, run.json says {expected[:12]}; "
            "name the right folder with --base FOLDER"
        )
    return folder


@torch.no_grad()
def merge(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Merges each adapted weight with its update and copies the trained head.

    `tensors` by the names of PEFT's file: A (r, d_in), B (d_out, r) and perhaps the norms of rows
    (d_out,) of each matrix, and the head's own. alpha = r in our files, so that B A is not scaled.
    """
    parameters, held = dict(model.named_parameters()), dict(tensors)
    for matrix, _ in model.named_modules():
        if (A := held.pop(factor_name(matrix, "A"), None)) is not None:
            B = held.pop(factor_name(matrix, "B"))
            magnitude = held.pop(magnitude_name(matrix), None)
            weight = parameters[f"{matrix}.weight"]
            weight.copy_(merged(weight, A, B, magnitude))
    for name, tensor in held.items():
        parameters[name.removeprefix("base_model.model.")].copy_(tensor)


@torch.no_grad()
def replace(model: nn.Module, head: Collection[str], tensors: Mapping[str, Tensor]) -> None:
    """Copies each tensor onto the model's parameter of the same name.

    `head`: names that must be among them, since the model's own values there are only drawn.
    Raises UserError naming every tensor that the model does not have, or has in another shape, and
    every missing tensor of the head; the model is then left as it is.
    """
    parameters = dict(model.named_parameters())
    problems = []
    for name, tensor in tensors.items():
        if name not in parameters:
            problems.append(f"{WEIGHTS} holds {cut(name)}, which the base model does not have")
        # `copy_` would broadcast a bias of one number over the whole parameter.
        elif tensor.shape != parameters[name].shape:
            problems.append(
                f"{WEIGHTS} holds {name} of shape {tuple(tensor.shape)}, in the base model it has "
                f"{tuple(parameters[name].shape)}"
            )
    problems += [f"{WEIGHTS} lacks the head's {name}" for name in head if name not in tensors]
    if problems:
        raise UserError(*problems)
    for name, tensor in tensors.items():
        parameters[name].copy_(tensor)


def save_merged(run: Run, folder: Path, base: Folder, to: Path) -> None:
    """Writes the base model with the adapter and head of the run in `folder`, in float32."""
    model, _ = _load(run, base, keep_head=False)
    merge(model, safetensors.torch.load_file(folder / ADAPTER_WEIGHTS))
    _save(run, model, base, to)


def save_base(run: Run, base: Folder, to: Path) -> None:
    """Writes the run's base model in float32, without a head, and the task's labels beside it.

    A program that passes over the adapter then finds no head, and warns; with the trained head here
    it would classify with the base model's features, without a word.
    """
    model, head = _load(run, base, keep_head=False)
    _save(run, model, base, to, without=head)


def save_with_weights(run: Run, folder: Path, base: Folder, to: Path) -> None:
    """Writes the base model with the trained tensors of the run in `folder`, in float32.

    Raises UserError where best.safetensors does not fit the base model.
    """
    model, head = _load(run, base, keep_head=False)
    replace(model, head, safetensors.torch.load_file(folder / WEIGHTS))
    _save(run, model, base, to)


def save_tuned(run: Run, folder: Path, to: Path) -> None:
    """Writes the whole model that the run in `folder` kept in its model/."""
    kept = backbone.locate(str(folder / "model"))
    model, _ = _load(run, kept, keep_head=True)
    _save(run, model, kept, to)


def _load(run: Run, place: Folder, keep_head: bool) -> tuple[nn.Module, list[str]]:
    """Returns the classifier in float32 and the names of its head's parameters."""
    c = run["config"]
    outputs = TASKS[c["task"]].outputs
    # The head that the seed draws is overwritten at once; its dropout goes into config.json.
    return backbone.load_model(place, outputs, c["head_dropout"], run["seed"], keep_head=keep_head)


def _save(run: Run, model: Any, place: Folder, to: Path, without: Collection[str] = ()) -> None:
    """Writes weights, tokenizer, and a configuration that names the task's labels.

    `without`: parameters that are left out.
    """
    task = TASKS[run["config"]["task"]]
    labels = task.labels or ("score",)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    # Without it Transformers guesses the loss from the labels' dtype when somebody trains on.
    model.config.problem_type = "regression" if task.regression else "single_label_classification"
    kept = {name: t for name, t in model.state_dict().items() if name not in without}
    with plainly(to):
        model.save_pretrained(to, state_dict=kept)
    for file in to.glob("*.safetensors"):
        # safetensors writes for the owner's eyes only. Not every file system has rights.
        with contextlib.suppress(OSError):
            file.chmod(0o644)
    tokenizer = backbone.load_tokenizer(place)
    tokenizer.init_kwargs.pop("local_files_only", None)  # how we read it is no part of it
    # truncation=True then cuts to the length of training.
    tokenizer.model_max_length = run["config"]["max_length"]
    model_config = read_config(place.path)
    if architecture_of(model_config["model_type"]).segments(model_config):
        # As the run had them: a tokenizer of no model's own class gives none unless told to.
        names = ["input_ids", "token_type_ids", "attention_mask"]
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
    tokenizer.save_pretrained(to)
