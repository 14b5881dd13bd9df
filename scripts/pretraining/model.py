"""The models that are pretrained: small RoBERTa and DeBERTaV3, and RoBERTa's start values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import (
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from pretraining.corpus import LENGTH


def build(
    kind: str, layers: int, hidden: int, tokenizer: Any
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Returns (whole model, encoder, vocabulary head), with tied embeddings."""
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32,
        "intermediate_size": 4 * hidden,
        # About 1/sqrt(width); base size's 0.02 makes a narrow model start slowly.
        "initializer_range": 0.05,
        # One pass over the text: there is nothing to overfit, and dropout costs time.
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if kind == "roberta":
        # Two positions more: RoBERTa counts them from pad_token_id + 1.
        model: Any = RobertaForMaskedLM(
            RobertaConfig(
                max_position_embeddings=LENGTH + 2, type_vocab_size=1, layer_norm_eps=1e-5, **shape
            )
        )
        see_neighbours(model)
        return model, model.roberta, model.lm_head
    # DeBERTaV3's settings but for the buckets: 256 of them would be most of a small model's work.
    v3: dict[str, Any] = dict(
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        position_buckets=32,
        norm_rel_ebd="layer_norm",
        max_relative_positions=-1,
        max_position_embeddings=512,
        position_biased_input=False,
        type_vocab_size=0,
        pooler_hidden_size=hidden,
        pooler_dropout=0,
        pooler_hidden_act="gelu",
    )
    model = DebertaV2ForMaskedLM(DebertaV2Config(**v3, **shape))
    return model, model.deberta, model.cls


# Distances to the tokens that the first layer's first heads attend to when training starts.
NEIGHBOURS = (-1, 1, -2, 2)
# Learnt at a tenth of the rate: Adam moves a weight by the rate however small its gradient is, and
# at the full rate the positions' structure is gone before anything has made use of it.
SLOW = ("position_embeddings", "layer.0.attention.self.query", "layer.0.attention.self.key")


@torch.no_grad()
def see_neighbours(model: Any) -> None:
    """Sets start values with which RoBERTa's first layer attends to neighbouring tokens.

    A small model spends most of its few steps on learning positions from random vectors: from the
    usual start the loss was still that of unigrams (6.6 nats) after 500 steps of 4,096 tokens,
    which DeBERTa's relative positions had left behind by then (5.0). Here positions are sinusoids
    in the first 2f dimensions, with f frequencies between π and π/64. For a head that looks d
    tokens on, the key picks these dimensions and the query turns them by d, so that their product
    is Σ cos(ω (i + d - j)), largest at j = i + d. Everything is trained from there.
    """
    embeddings, attention = model.roberta.embeddings, model.roberta.encoder.layer[0].attention.self
    size = attention.attention_head_size
    frequencies = math.pi * 64.0 ** -torch.linspace(0, 1, size // 2)
    positions = embeddings.position_embeddings.weight
    angles = torch.arange(len(positions))[:, None] * frequencies
    positions.zero_()
    positions[:, 0:size:2], positions[:, 1:size:2] = 0.1 * angles.sin(), 0.1 * angles.cos()
    embeddings.token_type_embeddings.weight.zero_()  # of the one type: a constant for every word
    for head, distance in enumerate(NEIGHBOURS[: attention.num_attention_heads]):
        rows = slice(head * size, (head + 1) * size)
        turn = distance * frequencies
        # One rotation of 2 x 2 for each frequency's sine and cosine.
        blocks = torch.stack([turn.cos(), turn.sin(), -turn.sin(), turn.cos()], 1).view(-1, 2, 2)
        for weight, value in (
            (attention.key.weight, torch.eye(size)),
            (attention.query.weight, torch.block_diag(*blocks)),
        ):
            weight[rows] = nn.functional.pad(value, (0, weight.shape[1] - size))
