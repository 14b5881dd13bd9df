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


class Layout:
    """The places of a packed batch's tokens, and of the same tokens padded to the longest row.

    `lengths`: (rows,) tokens of each row. `padded`: whether rows differ in length. `first`: (rows,)
    the place of each row's first token.
    """

    def __init__(self, lengths: np.ndarray) -> None:
        rows, self.longest = len(lengths), int(lengths.max())
        column = np.arange(self.longest)
        inside = column < lengths[:, None]  # (rows, longest), False at padding
        first = np.cumsum(lengths) - lengths
        # Padding is filled with the first token of all: finite numbers that a mask hides.
        self._of_padded = np.where(inside, first[:, None] + column, 0)
        self._of_packed = np.flatnonzero(inside)
        self.rows, self.padded = rows, not inside.all()
        self.first = torch.from_numpy(first)
        self.inside = torch.from_numpy(inside)[:, None, None]  # as attention takes a mask
        self._by_heads: dict[int, tuple[Tensor, Tensor]] = {}

    def by_heads(self, heads: int) -> tuple[Tensor, Tensor]:
        """Returns the places of each head's vectors: those to pad from, and those to pack from.

        The first, (rows · heads · longest,), reads vectors in the order (token, head) and gives the
        order (row, head, place). The second, (tokens · heads,), is the way back.
        """
        # All layers have equal heads: computed once for a batch.
        if heads not in self._by_heads:
            head = np.arange(heads)
            pad = self._of_padded[:, None, :] * heads + head[:, None]
            row, place = np.divmod(self._of_packed, self.longest)
            pack = ((row * heads)[:, None] + head) * self.longest + place[:, None]
            self._by_heads[heads] = torch.from_numpy(pad.ravel()), torch.from_numpy(pack.ravel())
        return self._by_heads[heads]


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
