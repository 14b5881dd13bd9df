"""Packs the rows of a batch without padding, and pads them where attention needs it.

On a CPU the rows of a batch stand one after the other in one long row, without padding between
them. Everything but attention treats each token by itself, and attention (`dora.backbones.fused`)
puts the rows beside each other for the time of its products. The `Layout` of the batch tells it
where each row stands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# A group is split where that saves more than so many padded entries of a score matrix. At 2 to 6 ns
# an entry and head, the calls for one more group take as long as computing so many entries.
SPARED = 6_000


class Group:
    """Rows of about one length, which attention treats as one padded batch.

    `first`, `lengths`: (rows,) the place of each row's first token in the packed batch, and its
    tokens. `inside`: (rows, 1, 1, longest) bool, True for a token; None if no row is padded.
    """

    def __init__(self, first: np.ndarray, lengths: np.ndarray) -> None:
        self.rows, self.longest = len(lengths), int(lengths.max())
        column = np.arange(self.longest)
        inside = column < lengths[:, None]  # (rows, longest), False at padding
        # Padding is filled with the first token of all: finite numbers that a mask hides.
        self._token = np.where(inside, first[:, None] + column, 0)
        self._inside = inside
        self.inside = None if inside.all() else torch.from_numpy(inside)[:, None, None]

    def to_pad(self, heads: int) -> np.ndarray:
        """Returns the place of each padded vector, in the order (row, head, token)."""
        return (self._token[:, None, :] * heads + np.arange(heads)[:, None]).ravel()

    def to_pack(self, heads: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the packed place of each vector, and its padded place; (tokens · heads,) each."""
        row, column = np.nonzero(self._inside)
        head = np.arange(heads)
        packed = self._token[row, column][:, None] * heads + head
        padded = ((row * heads)[:, None] + head) * self.longest + column[:, None]
        return packed.ravel(), padded.ravel()


class Layout:
    """Where the tokens of a packed batch stand, and in which groups attention pads its rows.

    `lengths`: (rows,) tokens of each row. `first`: (rows,) the place of each row's first token.
    `order`: (rows,) the rows in the order of the groups. `place`: (rows,) each row's place in it.
    """

    def __init__(self, lengths: np.ndarray) -> None:
        first = np.cumsum(lengths) - lengths
        order = np.argsort(-lengths, kind="stable")
        self.groups = [Group(first[rows], lengths[rows]) for rows in _alike(lengths, order)]
        self.first = torch.from_numpy(first)
        self.order = torch.from_numpy(order)
        self.place = torch.from_numpy(np.argsort(order))
        self._tokens = int(lengths.sum())
        self._by_heads: dict[int, tuple[list[Tensor], Tensor]] = {}

    def by_heads(self, heads: int) -> tuple[list[Tensor], Tensor]:
        """Returns where each head's vectors are read from, to pad each group and to pack again.

        To pad: (rows · heads · longest,) for each group, places in the packed batch, whose vectors
        lie in the order (token, head). To pack: (tokens · heads,), places in all padded groups, one
        after the other.
        """
        # All layers have equal heads: computed once for a batch.
        if heads not in self._by_heads:
            pads = [group.to_pad(heads) for group in self.groups]
            back = np.empty(self._tokens * heads, np.int64)
            before = 0
            for group, pad in zip(self.groups, pads, strict=True):
                packed, padded = group.to_pack(heads)
                back[packed] = padded + before
                before += len(pad)
            self._by_heads[heads] = [torch.from_numpy(pad) for pad in pads], torch.from_numpy(back)
        return self._by_heads[heads]


def _alike(lengths: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """Splits `order`, row numbers from the longest row on, where that saves enough padding."""
    found = lengths[order]
    # Entries saved if the rows from i on are a group of their own.
    saved = np.arange(len(order), 0, -1) * (found[0] ** 2 - found**2)
    at = int(saved.argmax())
    if saved[at] <= SPARED:
        return [order]
    return [*_alike(lengths, order[:at]), *_alike(lengths, order[at:])]


_current: Layout | None = None


def current() -> Layout | None:
    """Returns the layout of the batch that is being computed; None for a padded one."""
    return _current


def longest(x: Tensor) -> int:
    """Returns the tokens of the longest row of the batch x, (rows, length, d), packed or padded."""
    return x.shape[1] if _current is None else max(g.longest for g in _current.groups)


@contextlib.contextmanager
def with_layout(layout: Layout | None) -> Iterator[None]:
    """Lets the model know the layout of the batch that it is given while the context is open."""
    global _current
    before, _current = _current, layout
    try:
        yield
    finally:
        _current = before


def pad(tensors: Sequence[Tensor], layout: Layout) -> list[tuple[Tensor, ...]]:
    """Returns each group's part of all tensors, (rows, heads, longest, width) each.

    tensors: (1, heads, tokens, width), of a packed batch.
    """
    parts, n = _Pad.apply(layout, *tensors), len(tensors)
    return [parts[i : i + n] for i in range(0, len(parts), n)]


def pack(parts: Sequence[Tensor], layout: Layout) -> Tensor:
    """Returns (1, heads, tokens, width) from all groups' (rows, heads, longest, width)."""
    return _Pack.apply(layout, *parts)


class _Pad(torch.autograd.Function):
    """Computes `pad`; the result is flat, one group after the other."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Returns (rows, heads, longest, width) for each group and tensor."""
        ctx.layout, ctx.tensors = layout, len(tensors)
        parts = [_padded(x, layout) for x in tensors]
        return tuple(part for group in zip(*parts, strict=True) for part in group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Returns (1, heads, tokens, width) for each tensor. Padding's gradients are left out."""
        n = ctx.tensors
        return None, *(_without_padding(grads[i::n], ctx.layout) for i in range(n))


class _Pack(torch.autograd.Function):
    """Computes `pack`."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, *parts: Tensor) -> Tensor:
        """Returns (1, heads, tokens, width)."""
        ctx.layout = layout
        return _without_padding(parts, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns (rows, heads, longest, width) for each group, 0 at padding."""
        parts = _padded(grad, ctx.layout)
        for group, part in zip(ctx.layout.groups, parts, strict=True):
            if group.inside is not None:
                part.mul_(group.inside.mT)
        return None, *parts


def _padded(x: Tensor, layout: Layout) -> list[Tensor]:
    """Returns (rows, heads, longest, width) for each group, any token's vector at padding."""
    heads, width = x.shape[1], x.shape[3]
    # The heads of a token follow each other in memory, so that this view copies nothing.
    flat = x.transpose(1, 2).reshape(-1, width)
    return [
        flat.index_select(0, at).view(-1, heads, group.longest, width)
        for group, at in zip(layout.groups, layout.by_heads(heads)[0], strict=True)
    ]


def _without_padding(parts: Sequence[Tensor], layout: Layout) -> Tensor:
    """Returns (1, heads, tokens, width) from (rows, heads, longest, width) of each group."""
    heads, width = parts[0].shape[1], parts[0].shape[3]
    flat = [part.reshape(-1, width) for part in parts]
    joined = torch.cat(flat) if len(flat) > 1 else flat[0]
    found = joined.index_select(0, layout.by_heads(heads)[1])
    return found.view(1, -1, heads, width).transpose(1, 2)
