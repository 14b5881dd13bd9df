"""Curves of finished runs from their journals, for figures and the page.

A journal counts up to its first damaged line, which is printed as left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from dora.backbones.architectures import layer_and_kind
from dora.records import artefacts, journals
from dora.records.finished import left_out
from dora.records.schema import Run

T = TypeVar("T")


def places(run: Run) -> dict[str, tuple[int, str]]:
    """Returns name of an adapted module → (layer, kind of matrix).

    It is empty if the method has no ranks, or has them elsewhere than in the backbone's linears.
    """
    try:
        return {name: layer_and_kind(name) for name in run["ranks"]["end"]}
    except ValueError:
        return {}


def rank_path(run: Run) -> list[tuple[int, dict[tuple[int, str], int]]]:
    """Returns (step, components by (layer, kind)) at the start, at each change, and at the end.

    It is empty if no change is stored, or the ranks have no `places`.
    """
    where = places(run)
    # A sound journal of other modules would else be called damaged.
    changes = undamaged(run, journals.RANKS, journals.ranks(run["folder"])) if where else ()
    found = list(changes)
    if not found:
        return []
    start = {place: run["ranks"]["start"][name] for name, place in where.items()}
    # The end is where `patience` ended the run, and not the last step that was planned.
    end = run["results"]["last"]["step"]
    return [(0, {place: start.get(place, 0) for place in found[0][1]}), *found, (end, found[-1][1])]


def curve(run: Run, split: str, key: str) -> Iterator[tuple[int, float]]:
    """Yields (step, value) of a curve of metrics.jsonl (`journals.curve`)."""
    return undamaged(run, journals.METRICS, journals.curve(run["folder"], split, key))


def undamaged(run: Run, name: str, lines: Iterable[T]) -> Iterator[T]:
    """Yields the lines of a run's journal up to the first damaged one, which `left_out` prints.

    Yields nothing where the journal has another checksum than its record says.
    """
    if (problem := artefacts.changed(run["folder"], run, name)) is not None:
        left_out(run["folder"] / name, problem)
        return
    try:
        yield from lines
    except (OSError, ValueError) as e:
        left_out(run["folder"] / name, f"from a damaged line on: {e}")
