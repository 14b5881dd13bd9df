"""Token ids of a split as flat arrays, cached on disk and memory-mapped, and the order of batches.

Which rows make up a training step is a pure function of (seed, epoch): nothing about it needs saving.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dora.data.tasks import Rows
from dora.files import sync_folder, to_json, write_atomic
from dora.process import machine

# Batches are cut from pools of this many batches sorted by length: long enough that little is padding,
# short enough that batches stay mixed in everything but length.
POOL = 64
PIECE = 20_000  # rows that are tokenised at a time
FORMAT = 2  # of the cache's folders
MANIFEST = "manifest.json"  # the sha256 of each array's file


@dataclass(frozen=True)
class Tokens:
    """One split, tokenised. Row i is ids[start[i] : start[i] + lengths[i]].

    ids: (tokens,) int32. types: (tokens,) uint8 segment ids, None where the model has none. start,
    lengths: (rows,) int64. label: (rows,) or None. idx: (rows,) GLUE's own ids.
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
        """The rows at `rows`, in that order; the ids stay where they are."""
        label = None if self.label is None else self.label[rows]
        return replace(
            self,
            start=self.start[rows],
            lengths=self.lengths[rows],
            label=label,
            idx=self.idx[rows],
        )

    def batch(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The rows at `index` padded on the right to the longest of them: (len(index), longest) int64 each."""
        start, length = self.start[index], self.lengths[index]
        column = np.arange(length.max())
        inside = column < length[:, None]
        at = np.where(inside, start[:, None] + column, 0)
        batch = {
            "input_ids": np.where(inside, self.ids[at], self.pad).astype(np.int64),
            "attention_mask": inside.astype(np.int64),
        }
        if self.types is not None:
            batch["token_type_ids"] = np.where(inside, self.types[at], 0).astype(np.int64)
        return batch


def order(
    seed: int, epoch: int, lengths: np.ndarray, batch_size: int, grouped: bool = True
) -> list[np.ndarray]:
    """The batches of an epoch, each an array of row numbers; every row once, the one short batch anywhere.

    Rows are shuffled, cut into pools, sorted by length within a pool and cut into batches, which are
    shuffled again. Where not `grouped`, the shuffled rows are cut into batches as they are, the short one last.
    The same for any number of processes, which share a batch between them.
    """
    random = np.random.default_rng([seed, epoch])
    shuffled = random.permutation(len(lengths))
    if not grouped:
        return [shuffled[at : at + batch_size] for at in range(0, len(shuffled), batch_size)]
    batches = []
    for at in range(0, len(shuffled), POOL * batch_size):
        pool = shuffled[at : at + POOL * batch_size]
        pool = pool[np.argsort(-lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def by_length(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Batches for evaluation: all rows, longest first, so that memory runs out at once if it does."""
    rows = np.argsort(-lengths, kind="stable")
    for at in range(0, len(rows), batch_size):
        yield rows[at : at + batch_size]


def tokenise(rows: Rows, tokenizer: Any, max_length: int, segments: bool) -> dict[str, np.ndarray]:
    """ids, lengths and, where the model has `segments`, types of a split; the longer sentence is cut first.

    In pieces, since a tokenizer's own lists take a hundred times the memory of the arrays.
    """
    pieces = [
        _piece(rows, slice(at, at + PIECE), tokenizer, max_length, segments)
        for at in range(0, len(rows), PIECE)
    ]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _piece(
    rows: Rows, part: slice, tokenizer: Any, max_length: int, segments: bool
) -> dict[str, np.ndarray]:
    encoded = tokenizer(
        rows.first[part],
        None if rows.second is None else rows.second[part],
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=segments,
    )
    lengths = [len(ids) for ids in encoded["input_ids"]]

    def flat(name: str, kind: type) -> np.ndarray:
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
    """Every split tokenised, from `cache` where the same data, tokenizer and length have been there before.

    `identity` names data and tokenizer by content. The folder appears whole, by one rename, and is made again where
    it is not what was written. `begin` is called before it is filled, which may take long.
    """
    made_by = f"{FORMAT} {version('tokenizers')} {version('transformers')}"
    key = hashlib.sha256(f"{identity} {max_length} {segments} {made_by}".encode()).hexdigest()[:16]
    folder = cache / key
    cache.mkdir(parents=True, exist_ok=True)
    machine.sweep(cache, f".{'[0-9a-f]' * 16}.*", ours=True)  # folders that killed processes filled

    def opened() -> dict[str, Tokens]:
        pad = tokenizer.pad_token_id
        _check(folder)
        return {split: _open(folder, split, rows, segments, pad) for split, rows in splits.items()}

    with contextlib.suppress(
        OSError, ValueError, EOFError
    ):  # it is not there, or somebody has damaged it
        return opened()
    with _alone(cache):  # of processes that start together, one tokenises
        with contextlib.suppress(OSError, ValueError, EOFError):
            return opened()
        shutil.rmtree(folder, ignore_errors=True)
        begin()
        _fill(folder, splits, tokenizer, max_length, segments)
    return opened()


def _fill(
    folder: Path, splits: dict[str, Rows], tokenizer: Any, max_length: int, segments: bool
) -> None:
    """Tokenises into `folder`, which must not be there yet."""
    temporary = folder.with_name(f".{folder.name}.{machine.mark()}.part")
    machine.discard(temporary)  # of a process that was killed and had our number
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
        except OSError:  # another process was first; its folder holds the same
            if not folder.is_dir():
                raise
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder's lock. Not every shared file system has one: there several may do the same work."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _check(folder: Path) -> None:
    """Raises OSError or ValueError where a file of the folder is not as its manifest has it: 10 ms for SST-2."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    there = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.npy")
    }
    if manifest != there:
        raise ValueError(f"{folder} is damaged")


def _open(folder: Path, split: str, rows: Rows, segments: bool, pad: int) -> Tokens:
    def read(name: str) -> np.ndarray:
        file = folder / f"{split}.{name}.npy"
        try:
            return np.load(file, mmap_mode="r")
        except OSError:  # not every file system can map files into memory
            return np.load(file)

    lengths, ids = np.array(read("lengths")), read("ids")
    types = read("types") if segments else None
    if len(lengths) != len(rows.idx) or len(ids) != lengths.sum():
        raise ValueError(f"{folder} does not hold the {len(rows.idx)} rows of {split}")
    return Tokens(ids, types, np.cumsum(lengths) - lengths, lengths, rows.label, rows.idx, pad)
