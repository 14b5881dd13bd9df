"""Computes only what the head reads of the last layer: each row's first token.

Every token has a key and a value for the first tokens to attend to. The last layer's queries, its
attention and all that follows are computed for the first tokens alone, (rows, 1, d), so that the
greater part of that layer costs next to nothing. Outputs and gradients stay the same.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dora.backbones import packing
from dora.backbones.architectures import architecture_of
from dora.backbones.fused import split_heads


def read_first_tokens(model: Any) -> None:
    """Has the last encoder layer compute each row's first token alone.

    An attention that Transformers looks up by name takes fewer queries than keys. An architecture's
    own does not: it computes all tokens, and all but the first are left out behind it, where the
    table of architectures says.
    """
    row = architecture_of(model.config.model_type)
    layer = getattr(model, model.base_model_prefix).get_submodule(row.layers)[-1]
    called_by_name = row.attention == "plain" and model.config._attn_implementation != "eager"
    if row.first_token and called_by_name:
        reader = layer.get_submodule(row.reader)
        layer.set_submodule(row.reader, FirstTokenAttention(reader, model.config))
    for path in row.first_token:
        layer.get_submodule(path).register_forward_pre_hook(
            lambda module, args: tuple(first_tokens(x) for x in args)
        )


def first_tokens(x: Tensor) -> Tensor:
    """Returns each row's first token, (rows, 1, d), of x: (rows, length, d), packed or padded."""
    layout = packing.current()
    if x.shape[1] == 1:
        return x
    if layout is None:
        return x[:, :1]
    return x[0].index_select(0, layout.first).unsqueeze(1)


class FirstTokenAttention(nn.Module):
    """The self-attention of RoBERTa and BERT, in which first tokens alone attend to their rows.

    Takes the linears of Transformers' own module under their names, so that parameters keep theirs.
    """

    # The linears here that don't read the module's input (`dora.adapters.lowrank.adapt`).
    own_input = ("query",)

    def __init__(self, of: Any, config: Any) -> None:
        super().__init__()
        self.query, self.key, self.value, self.dropout = of.query, of.key, of.value, of.dropout
        self.width, self.scaling, self.config = of.attention_head_size, of.scaling, config

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **rest: Any
    ) -> tuple[Tensor, None]:
        """Returns (rows, 1, d) and no weights. hidden_states: (batch, length, d)."""
        from transformers import AttentionInterface

        if attention_mask is not None:
            attention_mask = attention_mask[:, :, :1]  # one query; (rows, 1, 1, length) stays
        attend = AttentionInterface()[self.config._attn_implementation]
        found, _ = attend(
            self,
            split_heads(self.query(first_tokens(hidden_states)), self.width),
            split_heads(self.key(hidden_states), self.width),
            split_heads(self.value(hidden_states), self.width),
            attention_mask,
            dropout=self.dropout.p if self.training else 0.0,
            scaling=self.scaling,
        )
        return found.flatten(2), None
