"""Token ids of a split as flat arrays, cached on disk and memory-mapped, and the order of batches.

The rows of each training step are a pure function of (seed, epoch): nothing about them needs
saving.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dora.data.tasks import Rows
from dora.files import alone, sync_folder, to_json, write_atomic
from dora.process import machine

# How far chance moves a row from its place by length, in `order`. A lower value leaves less padding,
# but a row shares its batch more often with rows of its last batch: with 0.5 there are 1.8 times as
# many of them as in random order, with 0.25 3 times, with 0.1 6.5 times (results/padding.md).
MIX = 0.5
PIECE = 20_000  # rows that are tokenised at a time
FORMAT = 2  # version of the cache's folders, raised whenever equal inputs give other files
MANIFEST = "manifest.json"  # the sha256 of each array's file


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


def order(
    seed: int, epoch: int, lengths: np.ndarray, batch_size: int, batching: str = "length"
) -> list[np.ndarray]:
    """Returns the batches of an epoch, each an array of row numbers; every row occurs once.

    "random" cuts shuffled rows into batches as they come, so the short batch is the last. "length"
    sorts the rows by √u + MIX·x first, and shuffles the batches. u in [0, 1) is a row's place among
    all rows, longest first, and x is drawn from [0, 1) anew in each epoch. So the rows of a
    batch are similar in length, longest first, and change from epoch to epoch: a row shares its
    batch with at most twice as many rows of its last batch as under "random", whatever the lengths,
    the number of rows and the size of a batch. The number of processes has no influence, since they
    share each batch.
    """
    # A generator of its own for each epoch: a resumed run needs no state of an earlier one.
    random, n = np.random.default_rng([seed, epoch]), len(lengths)
    rows = random.permutation(n)
    if batching == "random":
        return _cut(rows, batch_size)
    # Stable: rows of equal length stay shuffled, and have one order with every version of NumPy.
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    # Places rather than lengths, because the share of rows that meet again is then equal on every
    # data set.
    # The root parts the longest rows most, where lengths differ most: on GLUE that leaves a tenth
    # less padding than u itself at an equal share. A logarithm saves as much, but its last bits
    # depend on the machine; those of a root do not.
    place = np.sqrt(np.arange(n) / n) + MIX * random.random(n)
    # Within a batch by length again, so that its micro-batches hold like rows: in 4 parts a batch
    # of 32 has a quarter of the padding (results/padding.md).
    batches = [rows[np.sort(batch)] for batch in _cut(np.argsort(place, kind="stable"), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def by_length(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Returns batches of row numbers for evaluation: all rows, longest first.

    If memory is too small, the first batch shows it.
    """
    return _cut(np.argsort(-lengths, kind="stable"), batch_size)


def tokenise(rows: Rows, tokenizer: Any, max_length: int, segments: bool) -> dict[str, np.ndarray]:
    """Returns the arrays `ids`, `lengths` and, with `segments`, `types` of a split (see `Tokens`).

    A pair longer than `max_length` tokens loses tokens of its longer sentence first.
    """
    # In pieces, since a tokenizer's own lists take a hundred times the memory of the arrays.
    parts = [slice(at, at + PIECE) for at in range(0, len(rows), PIECE)]
    pieces = [_piece(rows, part, tokenizer, max_length, segments) for part in parts]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _piece(
    rows: Rows, part: slice, tokenizer: Any, max_length: int, segments: bool
) -> dict[str, np.ndarray]:
    encoded = tokenizer(
        rows.first[part],
        None if rows.second is None else rows.second[part],
        truncation=True,  # the longest sentence first, token by token
        max_length=max_length,
        return_attention_mask=False,  # `Tokens.batch` makes it from the lengths
        return_token_type_ids=segments,
    )
    lengths = [len(ids) for ids in encoded["input_ids"]]

    def flat(name: str, kind: type) -> np.ndarray:
        # fromiter with a count fills the array without a flat list in between.
        return np.fromiter((t for ids in encoded[name] for t in ids), kind, sum(lengths))

    arrays = {"ids": flat("input_ids", np.int32), "lengths": np.array(lengths, np.int64)}
    return {**arrays, "types": flat("token_type_ids", np.uint8)} if segments else arrays


def tokenised(
    cache: Path,
    identity: str,
    splits: dict[str, Rows],
    tokenizer: Any,
    max_length: int,
    segments: bool,
    begin: Callable[[], None] = lambda: None,
) -> dict[str, Tokens]:
    """Returns every split tokenised, from a folder in `cache`, which is filled if need be.

    The folder belongs to one combination of data, tokenizer and length. It appears whole, by one
    rename, and is made again where its content is damaged.
    `identity`: names data and tokenizer by content.
    `begin`: called before the folder is filled, which may take minutes.
    """
    # Another version of these packages may split words in another way.
    made_by = f"{FORMAT} {version('tokenizers')} {version('transformers')}"
    key = hashlib.sha256(f"{identity} {max_length} {segments} {made_by}".encode()).hexdigest()[:16]
    folder = cache / key
    cache.mkdir(parents=True, exist_ok=True)
    # Half-filled folders that killed processes left, by their key of 16 digits.
    machine.sweep(cache, f".{'[0-9a-f]' * 16}.*")

    def opened() -> dict[str, Tokens]:
        pad = tokenizer.pad_token_id
        _check(folder)
        return {split: _open(folder, split, rows, segments, pad) for split, rows in splits.items()}

    # Suppressed: the folder is absent or damaged.
    with contextlib.suppress(OSError, ValueError, EOFError):
        return opened()
    with alone(cache):
        # Again under the lock: of processes that start together, the first has tokenised.
        with contextlib.suppress(OSError, ValueError, EOFError):
            return opened()
        shutil.rmtree(folder, ignore_errors=True)
        begin()
        _fill(folder, splits, tokenizer, max_length, segments)
    return opened()


def _fill(
    folder: Path, splits: dict[str, Rows], tokenizer: Any, max_length: int, segments: bool
) -> None:
    """Tokenises the splits into `folder`, which must not exist yet."""
    temporary = folder.with_name(f".{folder.name}.{machine.mark()}.part")
    machine.discard(temporary)  # left by a killed process that had the process id of this one
    temporary.mkdir()
    manifest = {}
    try:
        for split, rows in splits.items():
            for name, array in tokenise(rows, tokenizer, max_length, segments).items():
                content = io.BytesIO()
                np.save(content, array)
                file = f"{split}.{name}.npy"
                manifest[file] = hashlib.sha256(content.getbuffer()).hexdigest()
                write_atomic(temporary / file, content.getbuffer())
        write_atomic(temporary / MANIFEST, to_json(manifest))
        try:
            os.rename(temporary, folder)
        except OSError:  # another process was first; its folder has the same content
            if not folder.is_dir():
                raise
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check(folder: Path) -> None:
    """Raises OSError or ValueError where a file of the folder differs from its manifest.

    Takes 10 ms for SST-2.
    """
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    there = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.npy")
    }
    if manifest != there:
        raise ValueError(f"{folder} is damaged")


def _open(folder: Path, split: str, rows: Rows, segments: bool, pad: int) -> Tokens:
    """Opens the arrays of one split, with labels and ids from `rows`.

    Raises OSError or ValueError where they are absent or have another number of rows.
    """

    def read(name: str) -> np.ndarray:
        file = folder / f"{split}.{name}.npy"
        try:
            return np.load(file, mmap_mode="r")
        except OSError:  # not every file system can map files into memory
            return np.load(file)

    # Only `ids` and `types` stay mapped: `lengths` is small and read for every batch.
    lengths, ids = np.array(read("lengths")), read("ids")
    types = read("types") if segments else None
    if len(lengths) != len(rows.idx) or len(ids) != lengths.sum():
        raise ValueError(f"{folder} does not hold the {len(rows.idx)} rows of {split}")
    return Tokens(ids, types, np.cumsum(lengths) - lengths, lengths, rows.label, rows.idx, pad)
