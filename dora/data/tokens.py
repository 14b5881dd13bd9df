"""The token ids of a split as flat arrays, from which batches are cut: padded, or packed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Tokens:
    """One tokenised split. Row i is ids[start[i] : start[i] + lengths[i]].

    `ids`: (tokens,) int32.
    `types`: (tokens,) uint8 segment ids, None where the model has none.
    `start`, `lengths`: (rows,) int64.
    `label`: (rows,) or None, as in `Rows`.
    `idx`: (rows,) GLUE's own ids.
    `pad`: the token id that fills short rows.
    """

    ids: np.ndarray
    types: np.ndarray | None
    start: np.ndarray
    lengths: np.ndarray
    label: np.ndarray | None
    idx: np.ndarray
    pad: int

    def __len__(self) -> int:
        return len(self.idx)

    def take(self, rows: np.ndarray) -> Tokens:
        """Returns the rows at `rows`, in that order, without copying token ids."""
        label = None if self.label is None else self.label[rows]
        return replace(
            self,
            start=self.start[rows],
            lengths=self.lengths[rows],
            label=label,
            idx=self.idx[rows],
        )

    def batch(self, index: np.ndarray, multiple: int = 1) -> dict[str, np.ndarray]:
        """Returns the model's inputs for the rows at `index`, padded on the right.

        Each is int64 of shape (len(index), longest), by the names that transformers uses; the
        length is rounded up to a multiple of `multiple`, but not beyond the longest row of all.
        """
        start, length = self.start[index], self.lengths[index]
        longest = -(-int(length.max()) // multiple) * multiple
        column = np.arange(min(longest, int(self.lengths.max())))
        inside = column < length[:, None]  # (len(index), longest), False at padding
        # One look-up for the whole batch. Position 0 stands in at padding, to be overwritten.
        at = np.where(inside, start[:, None] + column, 0)
        batch = {
            "input_ids": np.where(inside, self.ids[at], self.pad).astype(np.int64),
            "attention_mask": inside.astype(np.int64),
        }
        if self.types is not None:
            batch["token_type_ids"] = np.where(inside, self.types[at], 0).astype(np.int64)
        return batch

    def packed(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the model's inputs for the rows at `index`, one after the other, unpadded.

        Each is int64 of shape (1, tokens). `position_ids` count from 0 in each row.
        """
        length = self.lengths[index]
        # Each token's place in its row: a running count, less the count at the row's beginning.
        place = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        at = np.repeat(self.start[index], length) + place
        batch = {"input_ids": self.ids[at].astype(np.int64), "position_ids": place}
        if self.types is not None:
            batch["token_type_ids"] = self.types[at].astype(np.int64)
        return {name: values[None] for name, values in batch.items()}
