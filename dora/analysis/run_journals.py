"""The journals of finished runs as figures and the page read them: up to a damaged line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from dora.analysis.finished import left_out
from dora.backbones.architectures import layer_and_kind
from dora.records import artefacts, journals
from dora.records.schema import Run

T = TypeVar("T")


def places(run: Run) -> dict[str, tuple[int, str]]:
    """Returns (layer, kind of matrix) by the names of the run's ranks.

    Returns none if the method has no ranks, or has them elsewhere than in the backbone's linears.
    """
    try:
        return {name: layer_and_kind(name) for name in run["ranks"]["end"]}
    except ValueError:
        return {}


def allocations(run: Run) -> Iterator[tuple[int, dict[tuple[int, str], int]]]:
    """Yields (step, components by (layer, kind)) of each change of ranks that have `places`."""
    # A sound journal of other modules would else be called damaged.
    if places(run):
        yield from undamaged(run, journals.RANKS, journals.ranks(run["folder"]))


def undamaged(run: Run, name: str, lines: Iterable[T]) -> Iterator[T]:
    """Yields the lines of a run's journal up to the first damaged one, which is said.

    Yields nothing where the record has checksums and the journal is another.
    """
    if (problem := artefacts.changed(run["folder"], run, name)) is not None:
        left_out(run["folder"] / name, problem)
        return
    try:
        yield from lines
    except (OSError, ValueError) as e:
        left_out(run["folder"] / name, f"from a damaged line on: {e}")
