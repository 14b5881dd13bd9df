"""MPNet's bias by the distance of two tokens, and its attention for packed batches on a CPU.

    softmax(scale · Q Kᵀ + b[bucket(j − i)]) V

Transformers' own modules lay the bias out for each row of a batch, pad all rows to the longest, and
compute every token of the last layer. These take their linears under their names, so that
parameters keep theirs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dora.backbones import packing
from dora.backbones.architectures import architecture_of
from dora.backbones.first_token import first_tokens
from dora.backbones.fused import add_norm, attention, split_heads


def replace_attention(model: Any) -> None:
    """Replaces the attention of every encoder layer."""
    row = architecture_of(model.config.model_type)
    layers = getattr(model, model.base_model_prefix).get_submodule(row.layers)
    for number, layer in enumerate(layers, 1):
        half = layer.attention
        half.attn = SelfAttention(half.attn, first=number == len(layers))
        # By its parts: one with an adapter has another end.
        if {"attn", "LayerNorm", "dropout"} == {name for name, _ in half.named_children()}:
            layer.attention = Attention(half)


def replace_bias(model: Any) -> None:
    """Replaces what computes the layers' common bias, once for all rows of a batch."""
    encoder = getattr(model, model.base_model_prefix).encoder
    encoder.compute_position_bias = PositionBias(encoder)


class PositionBias:
    """Computes b[bucket(j − i)] for all places of a row, (heads, longest, longest)."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self._buckets: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the bias for a batch x, (rows, length, d), packed or padded."""
        longest = packing.longest(x)
        if self._buckets is None or self._buckets.device != x.device:
            # Once for the longest text: a recorded step reads them where they lay then.
            place = torch.arange(self.encoder.config.max_position_embeddings)
            apart = place - place[:, None]
            self._buckets = self.encoder.relative_position_bucket(apart).to(x.device)
        bias: Tensor = self.encoder.relative_attention_bias(self._buckets[:longest, :longest])
        return bias.permute(2, 0, 1).contiguous()


class SelfAttention(nn.Module):
    """Attention of one layer up to its output's linear. `first`: first tokens alone attend.

    It is called as Transformers' own module is.
    """

    def __init__(self, of: Any, first: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o, self.dropout = of.q, of.k, of.v, of.o, of.dropout
        self.width, self.first = of.attention_head_size, first
        # The linears here that don't read the module's input (`dora.adapters.lowrank.adapt`).
        self.own_input = ("q",) if first else ()

    def kept(self, x: Tensor) -> Tensor:
        """Returns the tokens of x that attend, (batch, queries, d); x: (batch, length, d)."""
        return first_tokens(x) if self.first else x

    def forward(
        self, x: Tensor, attention_mask: Tensor | None, position_bias: Tensor, **rest: Any
    ) -> tuple[Tensor]:
        """Returns (batch, queries, d) in a tuple. attention_mask: 0 at a key and below elsewhere.

        x: (batch, length, d); attention_mask: (batch, 1, length or 1, length) or None.
        """
        mask = None
        if attention_mask is not None and packing.current() is None:
            mask = attention_mask[:, :, :1] == 0  # all queries of a row see the same keys
        found = attention(
            split_heads(self.q(self.kept(x)), self.width),
            split_heads(self.k(x), self.width),
            split_heads(self.v(x), self.width),
            mask,
            self.dropout.p if self.training else 0.0,
            self.width**-0.5,
            packing.current(),
            lambda query, key: position_bias[:, : query.shape[2], : key.shape[2]],
        )
        return (self.o(found.flatten(2)),)


class Attention(nn.Module):
    """The first half of an encoder layer: LayerNorm(x + dropout(attention(x)))."""

    def __init__(self, of: Any) -> None:
        super().__init__()
        self.attn, self.LayerNorm, self.dropout = of.attn, of.LayerNorm, of.dropout

    def forward(
        self, x: Tensor, attention_mask: Tensor | None, position_bias: Tensor, **rest: Any
    ) -> tuple[Tensor]:
        """Returns (batch, queries, d) in a tuple; the arguments are those of the attention."""
        (out,) = self.attn(x, attention_mask, position_bias)
        p = self.dropout.p if self.training else 0.0
        return (add_norm(out, self.attn.kept(x), self.LayerNorm, p),)
