"""How long a study will still take, by the runs of it that are done."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dora.records.study import Seen

# Parts of a place that a run's length depends on, most alike first: data, task, model, method and
# budget; then without the budget; then any method of the task; then any task of the model.
_ALIKE = ((0, 1, 2, 3, 4), (0, 1, 2, 3), (0, 1, 2), (2,))


@dataclass(frozen=True)
class Left:
    """Holds what is left of a study. `seconds`: of training, one run after the other.

    `runs`: that are not done. `at_once`: runs in training now. `unlike`: runs for which nothing
    that is done tells how long they take.
    """

    seconds: float
    runs: int
    at_once: int
    unlike: int


def left(seen: Sequence[Seen], to_do: Iterable[str]) -> Left | None:
    """Returns what is left of a study; None where nothing is, or where no run is done yet.

    `to_do`: the states of runs that are to be trained. A run takes as long as the mean of the
    finished ones that are most like it; one that has begun, the share of it that its steps leave.
    """
    known: list[dict[tuple[str, ...], list[float]]] = [defaultdict(list) for _ in _ALIKE]
    for s in seen:
        if s.state == "done" and s.seconds:
            for parts, of in zip(_ALIKE, known, strict=True):
                of[_part(s, parts)].append(s.seconds)
    open_ = [s for s in seen if s.state == "running" or s.state in to_do]
    if not open_ or not known[-1]:
        return None
    lengths = [_length(s, known) for s in open_]
    return Left(
        sum(x for x in lengths if x is not None),
        len(open_),
        sum(s.state == "running" for s in open_),
        sum(x is None for x in lengths),
    )


def _part(s: Seen, parts: Sequence[int]) -> tuple[str, ...]:
    return tuple(s.place[i] for i in parts)


def _length(s: Seen, known: Sequence[dict[tuple[str, ...], list[float]]]) -> float | None:
    """Returns the seconds that a run will still take, None if nothing tells."""
    if s.state == "running" and s.left_s is not None:  # its own speed
        return s.left_s
    for parts, of in zip(_ALIKE, known, strict=True):
        if found := of.get(_part(s, parts)):
            share = s.step / s.total_steps if s.step and s.total_steps else 0.0
            return statistics.fmean(found) * (1 - min(1.0, share))
    return None
