"""Tokenises splits once: their arrays are cached on disk, checked, and memory-mapped."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dora.data.tasks import Rows
from dora.data.tokens import Tokens
from dora.files import alone, sync_folder, to_json, write_atomic
from dora.process import machine

PIECE = 20_000  # rows that are tokenised at a time
FORMAT = 2  # version of the cache's folders, raised whenever equal inputs give other files
MANIFEST = "manifest.json"  # the sha256 of each array's file


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
