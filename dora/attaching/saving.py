"""Writes an attached adapter in PEFT's file format, for any base model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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


def save(
    folder: Path,
    model: Any,
    layers: Mapping[str, LowRankLinear],
    head: Sequence[str],
    originals: Mapping[str, nn.Module],
) -> None:
    """Writes adapter_model.safetensors and adapter_config.json.

    `head`: names of the modules trained whole. `originals`: the linears as they were. Raises
    UserError if no component is left, which PEFT cannot read.
    """
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
