"""DeBERTa's disentangled attention on a CPU: tokens attend by content and by distance.

    softmax(s · (q_i · k_j + q_i · K(i − j) + k_j · Q(i − j))) V        s = 1 / √(3 · width)

K and Q are the keys and queries of an embedding of the distance (He et al. 2021, arXiv 2006.03654,
eq. 4). Transformers' own module computes both for all distances that the model knows, lays them out
for each row of a batch, pads all rows to the longest, and computes every token of the last layer.
This one computes the distances that a batch has, once for all of its rows, which may be packed. It
takes the linears under their names, so that parameters keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dora.backbones import packing
from dora.backbones.architectures import architecture_of
from dora.backbones.first_token import first_tokens
from dora.backbones.fused import attention, split_heads


def replace_attention(model: Any) -> None:
    """Replaces the attention of every encoder layer, in models with the settings of DeBERTa-v3.

    These are distances on both sides, with the linears of the content, and no convolution, which
    would read across the rows of a packed batch.
    """
    encoder = getattr(model, model.base_model_prefix).encoder
    reader = architecture_of(model.config.model_type).reader
    own = encoder.layer[0].get_submodule(reader)
    usual = set(own.pos_att_type) == {"c2p", "p2c"} and own.share_att_key
    if not (usual and encoder.relative_attention and encoder.conv is None):
        return
    for number, layer in enumerate(encoder.layer, 1):
        ours = SelfAttention(layer.get_submodule(reader), first=number == len(encoder.layer))
        layer.set_submodule(reader, ours)
    # Of all pairs of tokens, which a packed batch has far too many of.
    encoder.get_rel_pos = DistancesOf(encoder)
    encoder.get_attention_mask = _keys


def _keys(mask: Tensor) -> Tensor:
    """Returns a mask of the keys, (rows, 1, 1, length) bool. mask: (rows, length), 1 for a token."""
    return mask[:, None, None].bool()


class Distances(NamedTuple):
    """The distances between the tokens of a batch, 1 − longest to longest − 1.

    They have the embeddings `first` to `end` − 1, and `places` says which, counted from `first`:
    (2 · longest − 1,).
    """

    first: int
    end: int
    places: Tensor


class DistancesOf:
    """Makes the `Distances` of a batch; takes the place of the encoder's `get_rel_pos`."""

    def __init__(self, encoder: Any) -> None:
        self.buckets, self.most = encoder.position_buckets, encoder.max_relative_positions

    def __call__(self, x: Tensor, *rest: Any) -> Distances:
        """Returns the distances of a batch x, (rows, length, d), packed or padded."""
        from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

        longest = packing.longest(x)
        places = torch.arange(1 - longest, longest)
        if self.buckets > 0:
            # Far distances share an embedding.
            places = make_log_bucket_position(places, self.buckets, self.most).long()
        span = self.buckets if self.buckets > 0 else self.most
        places = (places + span).clamp_(0, 2 * span - 1)
        first, end = int(places[0]), int(places[-1]) + 1
        return Distances(first, end, places - first)


class SelfAttention(nn.Module):
    """Attention of one layer, without its output's linear. `first`: first tokens alone attend.

    It is called as Transformers' own module is.
    """

    def __init__(self, of: Any, first: bool) -> None:
        super().__init__()
        self.query_proj, self.key_proj, self.value_proj = of.query_proj, of.key_proj, of.value_proj
        self.dropout, self.pos_dropout = of.dropout, of.pos_dropout
        self.width, self.first = of.attention_head_size, first
        # The linears here that don't read the module's input (`dora.adapters.lowrank.adapt`).
        self.own_input = ("query_proj",) if first else ()

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        *,
        relative_pos: Distances,
        rel_embeddings: Tensor,
    ) -> tuple[Tensor, None]:
        """Returns (batch, queries, d) and no weights.

        x: (batch, length, d); attention_mask: (batch, 1, 1, length) bool, True where a key may be
        attended to; rel_embeddings: (all distances that the model knows, d). The arguments between
        are Transformers', and unused.
        """
        scale = (3 * self.width) ** -0.5
        query = split_heads(self.query_proj(first_tokens(x) if self.first else x), self.width)
        key = split_heads(self.key_proj(x), self.width)
        value = split_heads(self.value_proj(x), self.width)
        embedded = self.pos_dropout(rel_embeddings[relative_pos.first : relative_pos.end])

        def by_distance(linear: nn.Module) -> Tensor:
            """Returns s · linear(embedding) of each distance, (heads, 2 · longest − 1, width)."""
            made = linear(embedded).unflatten(1, (-1, self.width)).transpose(0, 1)
            return scale * made.index_select(1, relative_pos.places)

        layout = packing.current()
        found = attention(
            query,
            key,
            value,
            attention_mask if layout is None else None,
            self.dropout.p if self.training else 0.0,
            scale,
            layout,
            _scores(by_distance(self.query_proj), by_distance(self.key_proj)),
        )
        return found.flatten(2), None


def _scores(Q: Tensor, K: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the function that gives a batch's scores by distance.

    Q, K: (heads, 2 · longest − 1, width), by distance from 1 − longest on. The function takes
    queries, (rows, heads, queries, width), and keys, (rows, heads, length, width), and returns
    (rows, heads, queries, length); `queries` is length, or 1 for first tokens.
    """
    longest = (Q.shape[1] + 1) // 2
    # A first query's distance to key j is −j; other products need K by falling distances, too.
    falling = K.flip(1)

    def scores(query: Tensor, key: Tensor) -> Tensor:
        length = key.shape[2]
        if query.shape[2] < length:
            to_key = slice(longest - 1, longest - 1 + length)
            by_query = query @ falling[:, to_key].mT
            # Of all products of keys and distances only those of a key and its own.
            by_key = (key * Q.flip(1)[:, to_key]).sum(-1)
            return by_query + by_key.unsqueeze(2)
        kept = slice(longest - length, longest - 1 + length)
        return _Skewed.apply(_products(query, falling[:, kept]), _products(key, Q[:, kept]))

    return scores


def _products(x: Tensor, table: Tensor) -> Tensor:
    """Returns x · each distance's vector, (heads, rows, length, distances).

    x: (rows, heads, length, width); table: (heads, distances, width).
    """
    rows, heads, length, width = x.shape
    # One product a head for all rows.
    flat = x.transpose(0, 1).reshape(heads, -1, width)
    return torch.bmm(flat, table.mT).view(heads, rows, length, -1)


class _Skewed(torch.autograd.Function):
    """Takes each pair's products out of those of all distances, and adds them up."""

    @staticmethod
    def forward(ctx: Any, by_query: Tensor, by_key: Tensor) -> Tensor:
        """Returns (rows, heads, length, length).

        by_query, by_key: (heads, rows, length, 2 · length − 1); queries by falling, keys by rising
        distances.
        """
        return (_pairs(by_query) + _pairs(by_key).mT).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the gradients of forward's arguments. grad: (rows, heads, length, length)."""
        pairs = grad.transpose(0, 1)
        length = pairs.shape[2]
        shape = *pairs.shape[:3], 2 * length - 1
        by_query, by_key = pairs.new_zeros(shape), pairs.new_zeros(shape)
        _pairs(by_query).copy_(pairs)
        _pairs(by_key).copy_(pairs.mT)
        return by_query, by_key


def _pairs(products: Tensor) -> Tensor:
    """Returns a view, (heads, rows, length, length), of entry length − 1 − i + j of each row i.

    products: (heads, rows, length, 2 · length − 1), contiguous.
    """
    heads, rows, length, distances = products.shape
    # One column less a row: each row begins one entry further left than the one before.
    strides = *products.stride()[:2], distances - 1, 1
    return products.as_strided((heads, rows, length, length), strides, length - 1)
