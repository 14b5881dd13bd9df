"""Writes an attached adapter in PEFT's file format, for any base model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dora.adapters.lowrank import LowRankLinear
from dora.adapters.peft import adapter_tensors, ranks_in_file, write_adapter
from dora.adapters.peft_config import adapter_config
from dora.attaching.linears import is_conv1d
from dora.errors import UserError

# What PEFT calls the tasks of Transformers' classes, by the end of the class's name. For any other
# model it needs no task.
_TASKS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
}
# The modules in a linear that PEFT has adapted.
_CHILDREN = (
    "base_layer",
    "lora_A",
    "lora_B",
    "lora_dropout",
    "lora_dropout.default",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
)


def save(
    folder: Path,
    model: Any,
    layers: Mapping[str, LowRankLinear],
    head: Sequence[str],
    originals: Mapping[str, nn.Module],
) -> None:
    """Writes adapter_model.safetensors and adapter_config.json.

    `head`: names of the modules trained whole. `originals`: the linears as they were. Raises
    UserError if no component is left, which PEFT cannot read, or if it would misread the head.
    """
    if problem := misread(model, head, originals):
        raise UserError(problem)
    ranks = ranks_in_file(layers)
    if not any(ranks.values()):
        raise UserError("no component is left, and PEFT reads no empty adapter: merge() instead")
    kind = type(model).__name__
    task = next((task for end, task in _TASKS.items() if kind.endswith(end)), None)
    config = adapter_config(ranks, getattr(model, "name_or_path", None) or None, head)
    config |= {"task_type": task}
    if any(is_conv1d(originals[name]) for name, rank in ranks.items() if rank):
        config |= {"fan_in_fan_out": True}  # weights lie as (d_in, d_out)
    _make_exact(config, model, layers)
    inside = tuple(f"{name}." for name in head)
    parameters = dict(model.named_parameters())
    own = [name for name in parameters if name.startswith(inside)]
    write_adapter(folder, adapter_tensors(layers, parameters, own), config)


def misread(model: nn.Module, head: Sequence[str], adapted: Iterable[str]) -> str | None:
    """Returns a message if PEFT would take another module for the head, None if it would not.

    PEFT takes every module whose name ends in a head's, with or without a dot before, and looks
    when its own modules are already there. `adapted`: names of the linears to adapt.
    """
    inside = tuple(f"{name}." for name in adapted)
    own = [name for name, _ in model.named_modules() if not name.startswith(inside)]
    names = own + [f"{name}.{child}" for name in adapted for child in _CHILDREN]
    for end in head:
        other = next((name for name in names if name.endswith(end) and name not in head), None)
        if other is not None:
            return (
                "PEFT finds a module that is trained whole by the end of its name, and "
                f"{other} ends in {end} too: it cannot read this adapter, so rename {end}, or keep state_dict()"
            )
    return None


def _make_exact(
    config: dict[str, Any], model: nn.Module, layers: Mapping[str, LowRankLinear]
) -> None:
    """Makes names that are another module's end, such as `0`, stand for one module alone.

    PEFT takes a name for all modules that end in it.
    """
    held = config["target_modules"]
    inside = tuple(f"{name}." for name in layers)
    names = [n for n, _ in model.named_modules() if not n.startswith(inside)]
    if not any(name.endswith(f".{end}") for end in held for name in names):
        return
    config["target_modules"] = "|".join(re.escape(name) for name in held)
    for key in ("rank_pattern", "alpha_pattern"):
        config[key] = {f"^{pattern}": rank for pattern, rank in config[key].items()}
