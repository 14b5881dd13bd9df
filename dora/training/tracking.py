"""Gives trackers a run's values: its journals' lines, its speed, its configuration and its best.

`wandb=offline` or `online` and `tensorboard=true` choose the trackers; both get equal values, made
here. The journals are written in any case, and nothing that befalls a tracker costs the run.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from dora.configuration.config import Config
from dora.errors import TEMPORARY, UserError, reason
from dora.records import journals
from dora.records.record import Record

Values = dict[str, float]
_SAFE = "metrics.jsonl and ranks.jsonl have all that was logged"


class Tracker(Protocol):
    """One place that shows a run's curves.

    `name`: the setting that asks for it. `lacks_from`: the first step of which it has no points
    from earlier starts of the run, 0 where it has none at all.
    """

    name: str
    lacks_from: int

    def log(self, step: int, values: Values) -> None:
        """Shows values at a step, each by its name."""

    def histogram(self, step: int, name: str, counts: np.ndarray, edges: np.ndarray) -> None:
        """Shows a histogram at a step: (bins,) counts between (bins + 1,) edges."""

    def finish(self, step: int, summary: Values | None) -> None:
        """Ends the curves; `summary`: of a run that is done, None of one that is not."""

    def leave(self) -> None:
        """Lets go of curves that another start will continue, without waiting for a network."""


class Trackers:
    """All trackers of one run; does nothing where none is asked for.

    `step`: the one after which this start goes on. `settings`: the configuration as recorded.
    `say`: shows the user a line. A tracker is first given those lines of the journals that it
    lacks, whether it is new to the run or a kill cost it some; none is given to it twice.
    """

    def __init__(
        self,
        config: Config,
        record: Record,
        settings: dict[str, Any],
        step: int,
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        about = {**settings, "params": record.data["params"]}
        self._trackers: list[Tracker] = []

        # Imported late: both are slow to import, and most runs do without.
        def tensorboard() -> Tracker:
            from dora.training.track_tensorboard import TensorBoard

            named = [f"best/{metric}" for metric in config.glue_task.metrics]
            return TensorBoard(record.folder, about, step, named)

        def wandb() -> Tracker:
            from dora.training.track_wandb import WeightsAndBiases

            return WeightsAndBiases(config, record, about)

        if config.tensorboard:
            self._begin("tensorboard=true", tensorboard, step)
        if config.wandb != "off":
            self._begin(f"wandb={config.wandb}", wandb, step)
        # The step and the time of the last line, None before this start's first.
        self._last: tuple[int, float] | None = None
        if any(tracker.lacks_from <= step for tracker in self._trackers):
            for journal, line in _lines(record):
                self._send(journal, line, {})

    def _begin(self, setting: str, tracker: Callable[[], Tracker], step: int) -> None:
        """Adds a tracker. Raises UserError where it cannot begin and the run has no step yet.

        Whoever asked for curves hears of it before anything is trained. A run that goes on, perhaps
        on a cluster at night, goes on without them.
        """
        try:
            self._trackers.append(tracker())
        except Exception as e:  # as in `_send`
            told = f"{setting} cannot begin ({reason(e)})"
            if step:
                self._say(f"{told}; the run goes on without it; {_SAFE}")
            elif isinstance(e, OSError) and e.errno in TEMPORARY:
                raise  # such as a full disk: the same command goes on once it has passed
            else:
                raise UserError(
                    f"{told}; see to network, key and disk, or leave it out (wandb=offline needs "
                    "no network, and `wandb sync` uploads it later)"
                ) from e

    def log(self, journal: str, line: dict[str, Any]) -> None:
        """Gives every tracker one line of a journal, with the speed since the line before."""
        self._send(journal, line, self._speed(journal, line))

    def _speed(self, journal: str, line: dict[str, Any]) -> Values:
        """Returns {"train/steps_per_s": …} of a training line; empty for another line."""
        if journal != journals.METRICS:
            return {}
        before, now = self._last, time.monotonic()
        # An evaluation's line comes at its end, so that the time it took is in no speed.
        self._last = line["step"], now
        if line["split"] != "train" or before is None or line["step"] <= before[0]:
            return {}
        return {"train/steps_per_s": (line["step"] - before[0]) / max(now - before[1], 1e-9)}

    def _send(self, journal: str, line: dict[str, Any], more: Values) -> None:
        step, values = line["step"], values_of(journal, line) | more
        for tracker in [t for t in self._trackers if step >= t.lacks_from]:
            try:
                tracker.log(step, values)
                if journal == journals.RANKS:
                    tracker.histogram(step, "ranks", *histogram(line["ranks"].values()))
            except Exception as e:  # the tracker's own errors, the network's, a full disk's
                self._trackers.remove(tracker)
                self._say(f"{tracker.name} stopped ({reason(e)}); {_SAFE}")

    def finish(self, record: Record) -> None:
        """Ends every curve, with the run's best and its parameter counts if it is done.

        An error here is said and takes nothing from the run.
        """
        summary = _summary(record.data) if record.done else None
        step = int(record.data["results"]["last"]["step"]) if record.done else 0
        for tracker in self._trackers:
            try:
                tracker.finish(step, summary)
            except Exception as e:  # as in `_send`
                self._say(f"{tracker.name} did not end well ({reason(e)}); {_SAFE}")

    def leave(self) -> None:
        """Lets go of every curve, for another start of the run to continue."""
        for tracker in self._trackers:
            tracker.leave()


def values_of(journal: str, line: dict[str, Any]) -> Values:
    """Returns the numbers in a journal's line as trackers name them: `train/loss`, `ranks/total`."""
    group = "ranks" if journal == journals.RANKS else line["split"]
    return {f"{group}/{key}": value for key, value in _numbers(line).items() if key != "step"}


def _numbers(entries: dict[str, Any]) -> Values:
    return {
        key: value
        for key, value in entries.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def histogram(ranks: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many matrices have each rank from 0 to the largest, and the bins' edges."""
    counts = np.bincount(np.fromiter(ranks, int))
    # A rank stands in the middle of its bin.
    return counts, np.arange(len(counts) + 1) - 0.5


def _summary(run: dict[str, Any]) -> Values:
    best = {f"best/{key}": value for key, value in _numbers(run["results"]["best"]).items()}
    return best | {f"params/{key}": value for key, value in _numbers(run["params"]).items()}


def _lines(record: Record) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (journal, line) of both journals in the order of their steps."""
    held = [
        [(line["step"], number, name, line) for line in journals.events(record.folder, name)]
        # An allocation is logged within its step, the other lines behind it.
        for number, name in enumerate((journals.RANKS, journals.METRICS))
    ]
    for _, _, name, line in heapq.merge(*held, key=lambda entry: entry[:2]):
        yield name, line
