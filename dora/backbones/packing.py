"""Computes nothing that the loss does not need: no padding, and of the last layer one token a row.

On a CPU the rows of a batch stand one after the other in one long row, without padding between
them. Everything but attention treats each token by itself, and attention (`dora.backbones.fused`)
puts the rows beside each other for the time of its products. The `Layout` of the batch tells it
where each row stands.

The head reads each row's first token alone. Behind the last layer's attention all others are left
out, by a hook on every device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Rows are padded to each other as long as less than so many entries of a score matrix are padding
# that another group would save: at 2 to 6 ns an entry and head, what the calls of a group cost.
SPARED = 6_000


class Group:
    """Rows of about one length, which attention treats as one padded batch.

    `first`, `lengths`: (n,) the place of each row's first token in the packed batch, and its
    tokens. `inside`: (n, 1, 1, longest) bool, True for a token; None if no row is padded.
    """

    def __init__(self, first: np.ndarray, lengths: np.ndarray) -> None:
        self.longest = int(lengths.max())
        column = np.arange(self.longest)
        inside = column < lengths[:, None]  # (n, longest), False at padding
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
    """The places of a packed batch's tokens, and the groups in which attention pads its rows.

    `lengths`: (rows,) tokens of each row. `first`: (rows,) the place of each row's first token.
    """

    def __init__(self, lengths: np.ndarray) -> None:
        first = np.cumsum(lengths) - lengths
        order = np.argsort(-lengths, kind="stable")
        self.groups = [Group(first[rows], lengths[rows]) for rows in _alike(lengths, order)]
        self.first = torch.from_numpy(first)
        self._tokens = int(lengths.sum())
        self._by_heads: dict[int, tuple[list[Tensor], Tensor]] = {}

    def by_heads(self, heads: int) -> tuple[list[Tensor], Tensor]:
        """Returns the places to read each head's vectors from: for each group's padding, and back.

        The first, (rows · heads · longest,) for a group, read vectors in the order (token, head).
        The last, (tokens · heads,), reads them from all padded groups, one after the other.
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


@contextlib.contextmanager
def packed(layout: Layout | None) -> Iterator[None]:
    """Lets the model know the layout of the batch that it is given while the context is open."""
    global _current
    before, _current = _current, layout
    try:
        yield
    finally:
        _current = before


def read_first_tokens(model: Any) -> None:
    """Leaves out all tokens but each row's first one behind the last layer's attention.

    The head reads no others, so outputs and gradients stay the same. The rest of that layer, the
    greater part of its products, then costs next to nothing.
    """
    layers = getattr(model, model.base_model_prefix).encoder.layer
    layers[-1].attention.output.register_forward_pre_hook(_first_tokens)


def _first_tokens(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Returns (rows, 1, d) for each of the module's inputs."""
    layout = _current
    if layout is None:
        return tuple(x[:, :1] for x in args)
    return tuple(x[0].index_select(0, layout.first).unsqueeze(1) for x in args)
