"""A finished run as one whole model for plain Transformers: the adapter merged, or as fine-tuned."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from dora.backbones import backbone
from dora.backbones.backbone import ASSETS, Folder
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.records.schema import Run


def find_base(run: Run, config: Mapping[str, Any], base: Path | None) -> Folder:
    """The folder of the base model that the run trained on: `base`, else where adapter_config.json says.

    Raises UserError where there is none, or where it holds another model than the run's fingerprint.
    """
    recorded, revision = str(config["base_model_name_or_path"]), run["model"]["revision"]
    embedded = ASSETS / run["config"]["model"]  # the package may lie elsewhere by now
    hub = recorded if base is None and revision is not None else None
    path = str(
        base or (embedded if embedded.is_dir() and not Path(recorded).is_dir() else recorded)
    )
    try:
        folder = backbone.locate(None if hub else path, None, None, hub, revision or "main", False)
    except UserError as e:
        raise UserError(*(f"{p}; or name its folder with --base FOLDER" for p in e.problems)) from e
    if backbone.fingerprint(folder) != run["fingerprints"]["model"]:
        raise UserError(
            f"{folder.path} is not the model this run trained on: configuration, tokenizer and weights have the "
            f"fingerprint {backbone.fingerprint(folder)[:12]}, run.json says {run['fingerprints']['model'][:12]}; "
            "name the right folder with --base FOLDER"
        )
    return folder


@torch.no_grad()
def merge(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Adds B A to each adapted weight and puts the trained head in place; `tensors` as in PEFT's file, alpha = r."""
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        own = name.removeprefix("base_model.model.")
        if own.endswith(".lora_A.weight"):
            B = tensors[name.replace(".lora_A.", ".lora_B.")]
            weight = parameters[own.replace(".lora_A.", ".")]
            weight.copy_(weight.double() + B.double() @ tensor.double())  # rounded to float32 once
        elif not own.endswith(".lora_B.weight"):
            parameters[own].copy_(tensor)


def save_merged(run: Run, folder: Path, base: Folder, to: Path) -> None:
    """The base model with the adapter and head of the run in `folder`, in float32."""
    model = _load(run, base, keep_head=False)
    merge(model, safetensors.torch.load_file(folder / "adapter" / "adapter_model.safetensors"))
    _save(run, model, base, to)


def save_tuned(run: Run, folder: Path, to: Path) -> None:
    """The model that full fine-tuning kept in the run's model/."""
    kept = backbone.locate(str(folder / "model"), None, None, None, "main", False)
    _save(run, _load(run, kept, keep_head=True), kept, to)


def _load(run: Run, place: Folder, keep_head: bool) -> nn.Module:
    c = run["config"]
    outputs = TASKS[c["task"]].outputs
    return backbone.load_model(place, outputs, c["head_dropout"], run["seed"], keep_head=keep_head)[
        0
    ]


def _save(run: Run, model: Any, place: Folder, to: Path) -> None:
    """Weights, tokenizer, and a configuration that names the task's labels."""
    task = TASKS[run["config"]["task"]]
    labels = task.labels or ("score",)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    model.config.problem_type = "regression" if task.regression else "single_label_classification"
    model.save_pretrained(to)
    for file in to.glob("*.safetensors"):
        with contextlib.suppress(OSError):  # not every file system has rights
            file.chmod(0o644)  # written for their owner's eyes only
    tokenizer = backbone.load_tokenizer(place)
    tokenizer.init_kwargs.pop("local_files_only", None)  # how we read it, not what it is
    tokenizer.model_max_length = run["config"][
        "max_length"
    ]  # what truncation=True cuts to, as in training
    tokenizer.save_pretrained(to)
