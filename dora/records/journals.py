"""The lines of a run's journals, metrics.jsonl and ranks.jsonl, read with types and bounds checked.

Journals may be somebody else's, or damaged: no line is believed before it is checked. The readers
yield nothing where no journal is stored, and raise ValueError or OSError at the first line that no
run wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dora.backbones.architectures import layer_and_kind
from dora.checked_files import from_json, open_own
from dora.plain import cut, is_whole

JOURNALS = ("metrics.jsonl", "ranks.jsonl")
METRICS, RANKS = JOURNALS
# A line of ranks names each adapted matrix once: DeBERTa-large has 144, in 10 kB. A file without
# any end of line would otherwise be read into memory as one line.
MOST_LINE, MOST_BYTES = 2**20, 2**30
_MOST_LOSS = 3.5e38  # a float32 holds no larger number
_MOST_STEPS = 2**53 - 1  # whole numbers up to here are exact in figures, whose axes are floats


def ranks(folder: Path) -> Iterator[tuple[int, dict[tuple[int, str], int]]]:
    """Yields (step, live components by (layer, kind)) of each allocation."""
    for event in events(folder, RANKS):
        found = event.get("ranks")
        if not isinstance(found, dict) or not all(
            is_whole(rank, 0, _MOST_STEPS) for rank in found.values()
        ):
            raise ValueError(f"ranks are {cut(found)}")
        yield _step(event), {layer_and_kind(name): rank for name, rank in found.items()}


def curve(folder: Path, split: str, key: str) -> Iterator[tuple[int, float]]:
    """Yields (step, value) of the lines of metrics.jsonl on a split that have `key`.

    `split`: train, dev or heldout. `key`: a metric or a loss as the journal names it:
    `accuracy_mm`, `loss_heldout`.
    """
    most = 1.0 if split == "dev" else _MOST_LOSS  # of the development set scores alone are read
    for event in events(folder, METRICS):
        if event.get("split") == split and key in event:
            value = event[key]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not abs(value) <= most:  # `not … <=` refuses NaN too
                raise ValueError(f"{key} is {cut(value)}")
            yield _step(event), float(value)


def events(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yields the lines of a journal, each an object, not too long and not nested too deep."""
    try:
        file = open_own(folder, name, MOST_BYTES)
    except FileNotFoundError:
        return
    with file:
        # One byte more than allowed tells a line that is too long from one that just fits.
        while line := file.readline(MOST_LINE + 1):
            if len(line) > MOST_LINE:
                raise ValueError(f"a line of more than {MOST_LINE:,} bytes")
            try:
                event = from_json(line.decode("utf-8"))
            except RecursionError as e:
                raise ValueError("brackets within brackets, deeper than any line of a run") from e
            if not isinstance(event, dict):
                raise ValueError(f"a line holds {cut(event)}, no object")
            yield event


def _step(event: dict[str, Any]) -> int:
    step = event.get("step")
    if not is_whole(step, 0, _MOST_STEPS):
        raise ValueError(f"step is {cut(step)}")
    return int(event["step"])
