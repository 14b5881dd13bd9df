"""Tiny encoders of every architecture of the table, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from conftest import DEBERTA_V3, VOCABULARY
from dora.backbones.architectures import ARCHITECTURES

# Keys of config.json in which an architecture differs from SIZES.
OWN: dict[str, dict[str, Any]] = {
    "deberta-v2": DEBERTA_V3,
    "electra": {"embedding_size": 16},
    # Every second layer sees a window of 8 tokens.
    "modernbert": {
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
        **dict.fromkeys(("bos_token_id", "cls_token_id"), 0),
        **dict.fromkeys(("eos_token_id", "sep_token_id"), 2),
    },
}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 70,
    "initializer_range": 0.2,  # large enough that every layer changes the logits
}


def tiny(name: str, vocabulary: int = VOCABULARY, pad: int = 1, **changes: Any) -> Any:
    """Returns Transformers' sequence classifier of an architecture, with random weights.

    `changes`: of keys of BERT's config.json. Equal arguments give equal weights.
    """
    row = ARCHITECTURES[name]
    sizes = {row.key(key): value for key, value in (SIZES | changes).items()}
    keys = {**OWN.get(name, {}), **sizes, "vocab_size": vocabulary, "pad_token_id": pad}
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(name, **keys))
