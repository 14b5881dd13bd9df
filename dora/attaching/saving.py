"""Writes an attached adapter in PEFT's file format, for any base model."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dora.adapters.lowrank import LowRankLinear
from dora.adapters.peft import adapter_tensors, decomposed, ranks_in_file, write_adapter
from dora.adapters.peft_config import adapter_config
from dora.attaching.buffers import head_buffers
from dora.attaching.linears import is_conv1d, tied
from dora.errors import UserError

# PEFT's names for the tasks of Transformers' classes, by the end of the class's name. For any other
# model it needs no task.
_TASKS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
}
# Arguments that PEFT's class for a task hands to the model, given or not. Speech models have names
# like those of text models, and take other inputs.
_ALL_TAKE = ("input_ids", "attention_mask", "inputs_embeds")
_TAKEN = {"SEQ_2_SEQ_LM": (*_ALL_TAKE, "decoder_input_ids")}
# The ends of the names of modules that PEFT's class for a task takes for trained whole, told or not.
_WHOLE = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
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
    base = getattr(model, "name_or_path", None) or None
    config = adapter_config(ranks, base, head, decomposed(layers))
    config |= {"task_type": _task(model, head)}
    if any(is_conv1d(originals[name]) for name, rank in ranks.items() if rank):
        config |= {"fan_in_fan_out": True}  # weights lie as (d_in, d_out)
    _make_exact(config, model, layers)
    inside = tuple(f"{name}." for name in head)
    parameters = dict(model.named_parameters())
    _refuse_left_out(parameters, layers, inside)
    own = {name: p for name, p in parameters.items() if name.startswith(inside)}
    own |= head_buffers(model, head)  # as PEFT's own files have them
    write_adapter(folder, adapter_tensors(layers, own, list(own)), config)


def _task(model: nn.Module, head: Sequence[str]) -> str | None:
    """Returns PEFT's name of the model's task, or None if its class for that would not serve."""
    # Without a task PEFT reads the file as it is; with one its class has inputs and modules of its own.
    kind = type(model).__name__
    task = next((task for end, task in _TASKS.items() if kind.endswith(end)), None)
    takes = inspect.signature(model.forward).parameters
    if not all(name in takes for name in _TAKEN.get(str(task), _ALL_TAKE)):
        return None
    whole = [n for n, _ in model.named_modules() if n.endswith(_WHOLE.get(str(task), ()))]
    return task if set(whole) <= set(head) else None


def _refuse_left_out(
    parameters: Mapping[str, nn.Parameter],
    layers: Mapping[str, LowRankLinear],
    inside: tuple[str, ...],
) -> None:
    """Raises UserError if a parameter is trained that the file would leave out without a word."""
    factors = {p for layer in layers.values() for p in layer.factors().values()}
    left_out = [
        name
        for name, p in parameters.items()
        if p.requires_grad and p not in factors and not name.startswith(inside)
    ]
    if left_out:
        raise UserError(
            f"{', '.join(left_out[:3])} {'is' if len(left_out) == 1 else 'are'} trained too, and "
            "PEFT's file holds components and whole modules alone: attach with their modules in "
            "head=, or keep state_dict()"
        )


def misread(model: nn.Module, head: Sequence[str], adapted: Iterable[str]) -> str | None:
    """Returns a message if PEFT would take another module for the head, None if it would not.

    PEFT takes every module whose name ends in a head's, with or without a dot before, and looks
    when its own modules are already there. It gives the head tensors of its own, so that a weight
    that is also another module's would be two. `adapted`: names of the linears to adapt.
    """
    if tie := tied(model, head):
        return (
            f"{tie[0]} is {tie[1]} too, and PEFT would train and keep it apart from that: leave it "
            "out of head=, or keep state_dict()"
        )
    inside = tuple(f"{name}." for name in adapted)
    own = [name for name, _ in model.named_modules() if not name.startswith(inside)]
    names = own + [f"{name}.{child}" for name in adapted for child in _CHILDREN]
    for end in head:
        other = next((name for name in names if name.endswith(end) and name not in head), None)
        if other is not None:
            return (
                "PEFT finds a module that is trained whole by the end of its name, and "
                f"{other} ends in {end} too: it cannot read this adapter, so rename {end}, or keep "
                "state_dict()"
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
