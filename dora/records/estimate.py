"""How long a study will still take, by the runs of it that are done."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dora.plain import counted, duration
from dora.records.place import Place
from dora.records.study import Seen

# (seconds, steps) of finished runs by what they have in common (`_groups`); steps are None where a
# record tells none.
_Lengths = Mapping[tuple[str, ...], Sequence[tuple[float, int | None]]]


@dataclass(frozen=True)
class Left:
    """The work that is left of a study.

    `seconds`: of training, one run after the other. `runs`: the number that is not done. `at_once`:
    the number in training at a time. `unlike`: the number of runs that no finished run is like, so
    that nothing tells how long they take; `seconds` leaves them out.
    """

    seconds: float
    runs: int
    at_once: int
    unlike: int


def left(seen: Sequence[Seen], to_do: Iterable[str]) -> Left | None:
    """Returns the work that is left of a study; None without any, or without a like finished run.

    `to_do`: the states of runs that are to be trained.
    """
    running = [s for s in seen if s.state == "running"]
    return left_of([*running, *(s for s in seen if s.state in to_do)], seen, len(running))


def left_of(runs: Sequence[Seen], known: Iterable[Seen], at_once: int) -> Left | None:
    """Returns the work that is left in `runs`, none of them done; None as for `left`.

    `known`: runs whose finished ones tell how long the others take. A run takes as long as the mean
    of those that are most like it, in proportion to its steps. One that has begun takes the share
    of it that is not done.
    """
    lengths: dict[tuple[str, ...], list[tuple[float, int | None]]] = defaultdict(list)
    for s in known:
        if s.state == "done" and s.seconds:
            for group in _groups(s.place):
                lengths[group].append((s.seconds, s.total_steps))
    found = [_seconds_left(s, lengths) for s in runs]
    told = [seconds for seconds in found if seconds is not None]
    return Left(sum(told), len(runs), at_once, len(runs) - len(told)) if told else None


def in_words(left: Left) -> str:
    """Returns `about 25 min of training, 9 runs; 7 min with 4 at once, as now`."""
    text = f"about {duration(left.seconds)} of training, {counted(left.runs, 'run')}"
    if left.at_once > 1:
        text += f"; {duration(left.seconds / left.at_once)} with {left.at_once} at once, as now"
    if left.unlike:
        text += f"; {left.unlike:,} of them unlike any that is done, and not counted"
    return text


def _groups(place: Place) -> list[tuple[str, ...]]:
    """Returns what a run has in common with those like it, the most alike first."""
    data, task, model, method, budget, key, _ = place
    return [
        (data, task, model, method, budget, key),  # all but the seed
        (data, task, model, method, budget),  # the key names the number of epochs too
        (data, task, model, method),
        (data, task, model),
        (model,),
    ]


def _seconds_left(s: Seen, lengths: _Lengths) -> float | None:
    """Returns the seconds that a run will still take, None if nothing tells."""
    if s.state == "running" and s.left_s is not None:  # its own speed
        return s.left_s
    for group in _groups(s.place):
        if found := lengths.get(group):
            share = s.step / s.total_steps if s.step and s.total_steps else 0.0
            # A study of several lengths has them all in one folder, hence in proportion to the
            # steps where both are known.
            whole = (
                seconds * s.total_steps / steps if steps and s.total_steps else seconds
                for seconds, steps in found
            )
            return statistics.fmean(whole) * (1 - min(1.0, share))
    return None
