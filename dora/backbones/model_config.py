"""config.json of a model folder: read, and every value checked on which a plan, a tensor's shape or the loop depends."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from dora.backbones.architectures import LINEARS
from dora.errors import UserError
from dora.files import read_object

# The largest that a key may be, far beyond any model of these kinds: larger is a damaged file.
_NEEDED = {
    "hidden_size": 65_536,
    "intermediate_size": 1_048_576,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 1_024,
    "vocab_size": 10_000_000,
}
# (smallest, largest) of whole numbers that may be left out; pad_token_id and embedding_size have rules of their own.
_OPTIONAL = {
    "max_position_embeddings": (1, 10_000_000),
    "type_vocab_size": (0, 1_000),
    "position_buckets": (-1, 10_000_000),
    "max_relative_positions": (-1, 10_000_000),
    "conv_kernel_size": (0, 1_000),
    "conv_groups": (1, 65_536),
    "embedding_size": (1, 65_536),
    "pooler_hidden_size": (1, 65_536),
}
_SHARES = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "cls_dropout",
    "pooler_dropout",
)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as a dictionary, its `model_type` being one we know. Raises UserError with every problem found."""
    file = folder / "config.json"
    config = read_object(file)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in LINEARS:
        raise UserError(f"{folder} is a {kind!r} model; this suite adapts {', '.join(LINEARS)}")
    if problems := [*_sizes(config), *_numbers(config), *_text(config)]:
        raise UserError(*(f"{file}: {problem}" for problem in problems))
    return config


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _sizes(config: dict[str, Any]) -> list[str]:
    """What is wrong with the whole numbers that make the tensors' shapes."""
    wrong = [
        f"{key}={config[key]!r} must be a whole number from 1 to {most:,}"
        if key in config
        else f"{key} is missing"
        for key, most in _NEEDED.items()
        if not _whole(config.get(key), 1, most)
    ]
    wrong += [
        f"{key}={config[key]!r} must be a whole number from {least} to {most:,}"
        for key, (least, most) in _OPTIONAL.items()
        if key in config and not _whole(config[key], least, most)
    ]
    if not wrong and config["hidden_size"] % config["num_attention_heads"]:
        wrong.append(
            f"hidden_size={config['hidden_size']} must be a multiple of "
            f"num_attention_heads={config['num_attention_heads']}"
        )
    return wrong


def _numbers(config: dict[str, Any]) -> list[str]:
    """What is wrong with dropouts, the layer norm's epsilon and the padding's id."""

    def fits(key: str, most: float) -> bool:
        value = config.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return value is None or (number and math.isfinite(value) and 0 <= value < most)

    wrong = [f"{key}={config[key]!r} must lie in [0, 1)" for key in _SHARES if not fits(key, 1)]
    if not fits("layer_norm_eps", 1):
        wrong.append(f"layer_norm_eps={config['layer_norm_eps']!r} must be a small positive number")
    pad, rows = config.get("pad_token_id", 1), config.get("vocab_size", 0)
    # RoBERTa counts its positions from the padding's id.
    optional = config["model_type"] != "roberta"
    if (
        not (pad is None and optional)
        and _whole(rows, 1, _NEEDED["vocab_size"])
        and not _whole(pad, 0, rows - 1)
    ):
        wrong.append(
            f"pad_token_id={pad!r} must be a token's id, from 0 to {rows - 1} (vocab_size - 1)"
        )
    return wrong


def _text(config: dict[str, Any]) -> list[str]:
    """What is wrong with the values that are names."""
    return [
        f"{key}={config[key]!r} must be a name, such as {such!r}"
        for key, such in (("hidden_act", "gelu"), ("norm_rel_ebd", "layer_norm"))
        if key in config and not isinstance(config[key], str)
    ]
