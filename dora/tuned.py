"""The file of learning rates that `python -m dora.tune` chose, which a study reads (`rates_from`).

It holds every score that the search saw, so that nobody has to believe a choice.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dora.errors import UserError
from dora.files import read_object, to_json, write_atomic

# Rate → a score in points for each seed; None where the run diverged or its score is undefined.
Scores = Mapping[float, tuple[float | None, ...]]
Key = tuple[str, str, str, str | None]  # model, task, method, budget; None without a budget


@dataclass(frozen=True)
class Search:
    """The rates tried for one method on one task, at one budget.

    `scores`: on the held-out part of the training set. `seeds`: the seeds of each rate's scores.
    `made`: command, commit and machine of the search.
    """

    model: str
    task: str
    method: str
    budget: str | None
    seeds: tuple[int, ...]
    scores: Scores
    made: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> Key:
        """Returns what tells this search from the others of a file."""
        return self.model, self.task, self.method, self.budget

    @property
    def lr(self) -> float:
        """The rate with the highest mean score, the lowest of equal ones."""
        return max(sorted(self.scores), key=self.mean)  # `max` takes the first of equals

    @property
    def at_edge(self) -> bool:
        """True if the best rate is the lowest or highest tried: one beyond might be better still."""
        return self.lr in (min(self.scores), max(self.scores))

    @property
    def all_failed(self) -> bool:
        """True if at every rate a run diverged or had no score, so that none is the best."""
        return math.isinf(self.mean(self.lr))

    def mean(self, lr: float) -> float:
        """Returns the mean score at a rate, in points; −∞ if any of its runs has none."""
        held = [score for score in self.scores[lr] if score is not None]
        return statistics.fmean(held) if len(held) == len(self.scores[lr]) else -math.inf


def write(file: Path, searches: Iterable[Search]) -> None:
    """Writes the searches, each with what it chose."""
    entries = [
        {**asdict(s), "lr": s.lr, "at_edge": s.at_edge, "candidates": len(s.scores)}
        for s in searches
    ]
    for entry in entries:  # JSON has no numbers as keys
        entry["scores"] = [[lr, list(by_seed)] for lr, by_seed in sorted(entry["scores"].items())]
    write_atomic(file, to_json({"choices": entries}))


def read(file: Path) -> dict[Key, Search]:
    """Returns the searches of a file. Raises UserError where it cannot be read."""
    try:
        changed = file.stat().st_mtime_ns
    except OSError as e:
        raise UserError(f"rates_from={file} cannot be read: {e.strerror}") from e
    return _read(file, changed)


@functools.lru_cache(maxsize=8)  # a sweep asks for each of its runs
def _read(file: Path, changed: int) -> dict[Key, Search]:
    del changed  # part of the cache's key alone
    try:
        found = [_search(entry) for entry in read_object(file)["choices"]]
    except UserError as e:
        raise UserError(*(f"rates_from: {problem}" for problem in e.problems)) from e
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise UserError(
            f"rates_from={file} is no file of python -m dora.tune ({type(e).__name__}: {e})"
        ) from e
    return {search.key: search for search in found}


def _search(entry: Mapping[str, Any]) -> Search:
    """Returns one entry of a file. Raises KeyError, TypeError or ValueError if it is none."""
    model, task, method = names = [entry[key] for key in ("model", "task", "method")]
    budget, seeds = entry["budget"], tuple(int(seed) for seed in entry["seeds"])
    scores = {float(lr): tuple(by_seed) for lr, by_seed in entry["scores"]}
    numbers = [s for by_seed in scores.values() for s in by_seed if s is not None]
    if not all(isinstance(name, str) for name in names) or not isinstance(budget, str | None):
        raise TypeError("model, task, method and budget are texts")
    if not scores or not all(0 < lr < math.inf for lr in scores):
        raise ValueError("a search has rates above 0")
    if not all(isinstance(s, int | float) and math.isfinite(s) for s in numbers):
        raise ValueError("scores are numbers")
    if any(len(by_seed) != len(seeds) for by_seed in scores.values()) or not seeds:
        raise ValueError("every rate has a score for each seed")
    return Search(model, task, method, budget, seeds, scores, dict(entry.get("made", {})))
