"""config.json of a model folder, read and checked.

Every value is checked on which a plan, a tensor's shape or the loop depends.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from dora.backbones.architectures import ARCHITECTURES, Architecture
from dora.checked_files import read_object
from dora.errors import UserError
from dora.plain import is_whole

# The largest value of each required key, far beyond any model of these kinds: a larger one means a
# damaged file, and would ask for more memory than there is.
_NEEDED = {
    "hidden_size": 65_536,
    "intermediate_size": 1_048_576,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 1_024,
    "vocab_size": 10_000_000,
}
# (smallest, largest) value of optional keys. -1 is how DeBERTa's configuration says "not given".
# pad_token_id, which may be null, is checked in `_numbers`.
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
# Probabilities of dropout, each in [0, 1): with 1 nothing would be left.
_SHARES = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "cls_dropout",
    "pooler_dropout",
    # DistilBERT's and ModernBERT's names
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
    "embedding_dropout",
    "mlp_dropout",
)
# Keys whose values are names, with an example.
_NAMES = (
    ("hidden_act", "gelu"),
    ("activation", "gelu"),
    ("hidden_activation", "gelu"),
    ("norm_rel_ebd", "layer_norm"),
)
# Keys for which one value alone is computed: weights trained with another would be read all the same,
# and give other outputs.
_ONLY = {"is_decoder": False, "position_embedding_type": "absolute"}


def read_config(folder: Path) -> dict[str, Any]:
    """Returns config.json as a dictionary whose `model_type` is one of ARCHITECTURES.

    Raises UserError with every problem found.
    """
    file = folder / "config.json"
    config = read_object(file)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"{folder} is a {kind!r} model; this suite adapts {known}")
    row = ARCHITECTURES[kind]
    if problems := [*_sizes(config, row), *_numbers(config, row), *_text(config), *_kinds(config)]:
        raise UserError(*(f"{file}: {problem}" for problem in problems))
    return config


def _sizes(config: dict[str, Any], row: Architecture) -> list[str]:
    """Returns the problems of the whole numbers from which the tensors' shapes follow."""
    needed = {row.key(name): most for name, most in _NEEDED.items()}
    wrong = [
        f"{key}={config[key]!r} must be a whole number from 1 to {most:,}"
        if key in config
        else f"{key} is missing"
        for key, most in needed.items()
        if not is_whole(config.get(key), 1, most)
    ]
    wrong += [
        f"{key}={config[key]!r} must be a whole number from {least} to {most:,}"
        for key, (least, most) in _OPTIONAL.items()
        if key in config and not is_whole(config[key], least, most)
    ]
    # Only between two sound numbers: a remainder of something else would be a second message.
    width, heads = row.key("hidden_size"), row.key("num_attention_heads")
    if not wrong and config[width] % config[heads]:
        wrong.append(f"{width}={config[width]} must be a multiple of {heads}={config[heads]}")
    return wrong


def _numbers(config: dict[str, Any], row: Architecture) -> list[str]:
    """Returns the problems of dropouts, the layer norm's epsilon and the padding's id."""

    def fits(key: str, most: float) -> bool:
        value = config.get(key)
        # Python's JSON reads NaN and Infinity.
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return value is None or (number and math.isfinite(value) and 0 <= value < most)

    wrong = [f"{key}={config[key]!r} must lie in [0, 1)" for key in _SHARES if not fits(key, 1)]
    wrong += [
        f"{key}={config[key]!r} must be a small positive number"
        for key in ("layer_norm_eps", "norm_eps")
        if not fits(key, 1)
    ]
    pad, rows = row.padding(config), config.get("vocab_size", 0)
    # Only a model that counts its positions from the padding's id cannot do without one.
    checked = pad is not None or row.counts_from_pad
    if checked and is_whole(rows, 1, _NEEDED["vocab_size"]) and not is_whole(pad, 0, rows - 1):
        wrong.append(
            f"pad_token_id={pad!r} must be a token's id, from 0 to {rows - 1} (vocab_size - 1)"
        )
    return wrong


def _text(config: dict[str, Any]) -> list[str]:
    """Returns the problems of values that are names; which there are is Transformers' to say."""
    return [
        f"{key}={config[key]!r} must be a name, such as {such!r}"
        for key, such in _NAMES
        if key in config and not isinstance(config[key], str)
    ]


def _kinds(config: dict[str, Any]) -> list[str]:
    """Returns the problems of keys by which a model is of a kind that is not computed here."""
    return [
        f"{key}={config[key]!r} is a model that is not computed here, but {key}={only!r} alone"
        for key, only in _ONLY.items()
        if config.get(key) not in (None, only)
    ]
