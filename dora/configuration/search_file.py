"""The file of settings that `python -m dora.tune` chose, which a study reads (`rates_from`).

It holds every score that the search saw, so that nobody has to believe a choice.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from dora.checked_files import read_object
from dora.errors import UserError, reason
from dora.files import to_json, write_atomic

# A score in points for each seed, or a loss; it is None where the run diverged or the score is
# undefined.
BySeed = tuple[float | None, ...]
Scores = Mapping[float, BySeed]  # by learning rate
Value = float | int | str | bool  # of a method's own setting


class Key(NamedTuple):
    """Names a search of a file: no other one has an equal key.

    `budget`: None for a method without one. `length`: that of its runs, such as "600 steps".
    `data`: the name of the data that they trained on.
    """

    model: str
    task: str
    method: str
    budget: str | None
    length: str
    data: str

    @property
    def cell(self) -> tuple[str, str, str, str | None]:
        """The part that says what a choice is for: model, task, method and budget."""
        return self[:4]

    @property
    def where(self) -> str:
        """The length and data of its runs, in words: `600 steps on glue_sample`."""
        return f"{self.length} on {self.data}"


@dataclass(frozen=True)
class Search:
    """The candidates tried for one method on one task, at one budget.

    First learning rates, then, at the best of them, other values of one setting of the method's own
    (`setting`; None for a method whose YAML names none).

    `scores`: of the rates, on the held-out part of the training set, where the setting has its
    `default`. `losses`: of the rates on the same rows; empty where none is known. `values`: scores
    of the setting's other values, at the best rate. `seeds`: the seeds of each candidate. `made`:
    command, commit and machine of the search. `settings`: those that its runs have in common
    (`rates_from.searched_with`).
    """

    key: Key
    seeds: tuple[int, ...]
    scores: Scores
    made: Mapping[str, Any] = field(default_factory=dict, compare=False)
    setting: str | None = None
    default: Value | None = None
    values: Mapping[Value, BySeed] = field(default_factory=dict)
    losses: Scores = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lr(self) -> float:
        """The best rate; the lowest of those that are equal in score and loss."""
        return max(sorted(self.scores), key=self.merit)  # `max` takes the first of equals

    @property
    def at_edge(self) -> bool:
        """True if the best rate is the lowest or highest tried: one beyond might be better still."""
        return self.lr in (min(self.scores), max(self.scores))

    @property
    def all_equal(self) -> bool:
        """True if all rates have the same score: only losses tell them apart, if anything does."""
        return len(self.ties(self.lr)) == len(self.scores) > 1

    @property
    def agreed(self) -> bool:
        """True if each seed by itself would choose the best rate, ties decided as they are here."""

        def of_one(i: int, scores: Scores) -> Scores:
            """Returns the scores or losses of one seed."""
            return {lr: by_seed[i : i + 1] for lr, by_seed in scores.items()}

        alone = (
            replace(self, scores=of_one(i, self.scores), losses=of_one(i, self.losses))
            for i in range(len(self.seeds))
        )
        return all(one.lr == self.lr for one in alone)

    @property
    def all_failed(self) -> bool:
        """True if every candidate had a run that diverged or had no score: none is the best."""
        return all(math.isinf(mean(s)) for s in (*self.scores.values(), *self.values.values()))

    @property
    def value(self) -> Value | None:
        """The setting's value with the highest mean score at the best rate.

        The default wins over a value that is only equal to it; without a setting it is None.
        """
        best, most = self.default, _compared(self.mean(self.lr))
        for value, by_seed in self.values.items():
            if (score := _compared(mean(by_seed))) > most:
                best, most = value, score
        return best

    @property
    def best(self) -> float:
        """The mean score of the chosen rate and value, in points; −∞ if every candidate failed."""
        chosen = [by_seed for value, by_seed in self.values.items() if value == self.value]
        return mean(*chosen) if chosen else self.mean(self.lr)

    @property
    def candidates(self) -> int:
        """The number of candidates: rates, and the setting's other values."""
        return len(self.scores) + len(self.values)

    def unlike(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the search's value of each of these settings that it had otherwise."""
        return {
            key: self.settings[key]
            for key, value in settings.items()
            if key in self.settings and self.settings[key] != value
        }

    def mean(self, lr: float) -> float:
        """Returns the mean score at a rate, in points; −∞ if any of its runs has none."""
        return mean(self.scores[lr])

    def merit(self, lr: float) -> tuple[float, float]:
        """Returns the key by which rates are compared, the better the higher: (mean score, −loss).

        Without the loss a method that learns little, whose score is 0.0 at every rate, would be
        searched in the wrong direction. The loss is left out (0.0) unless it is known for every
        rate of this score.
        """
        known = not any(math.isinf(self.loss(rate)) for rate in self.ties(lr))
        return _compared(self.mean(lr)), -self.loss(lr) if known else 0.0

    def ties(self, lr: float) -> list[float]:
        """Returns the rates whose score equals that of `lr`, itself among them."""
        score = _compared(self.mean(lr))
        return [rate for rate in self.scores if _compared(self.mean(rate)) == score]

    def loss(self, lr: float) -> float:
        """Returns the mean held-out loss at a rate; ∞ where that of a run is not known."""
        held = self.losses.get(lr, (None,))
        return -mean(tuple(None if loss is None else -loss for loss in held))


def mean(by_seed: BySeed) -> float:
    """Returns the mean score of one candidate, in points; −∞ if any of its runs has none."""
    held = [score for score in by_seed if score is not None]
    return statistics.fmean(held) if len(held) == len(by_seed) else -math.inf


def _compared(score: float) -> float:
    """Returns a mean score as it is compared with others: equal ones tie.

    Points are 100 times a fraction, rounded, so that the means of 57 and 59 and of 58 and 58 may
    differ in their last bits, which say nothing about a rate.
    """
    return round(score, 9)


def length(config: Mapping[str, Any]) -> str:
    """Returns a run's length as it was given: `600 steps`, `5 epochs`, or `20 rounds`.

    `config`: the run's settings as run.json records them.
    """
    steps = config.get("max_steps")
    if steps is not None:
        return f"{steps} steps"
    rounds = (config.get("fed") or {}).get("rounds")
    return f"{config.get('epochs')} epochs" if rounds is None else f"{rounds} rounds"


def write(file: Path, searches: Iterable[Search]) -> None:
    """Writes the searches, each with what it chose."""
    entries = [
        {
            **s.key._asdict(),
            **{name: value for name, value in vars(s).items() if name != "key"},
            # JSON has no numbers as keys.
            "scores": [[lr, list(by_seed)] for lr, by_seed in sorted(s.scores.items())],
            "losses": [[lr, list(by_seed)] for lr, by_seed in sorted(s.losses.items())],
            "values": [[value, list(by_seed)] for value, by_seed in s.values.items()],
            "lr": s.lr,
            "value": s.value,
            "at_edge": s.at_edge,
            "candidates": s.candidates,
        }
        for s in searches
    ]
    write_atomic(file, to_json({"choices": entries}))


def found(searches: Mapping[Key, Search], run: Key) -> Search | None:
    """Returns the search for a run: of its length and data, else the only one of its cell.

    Returns None if there is none, or if several of other lengths or data could be meant.
    """
    if run in searches:
        return searches[run]
    there = of_cell(searches, run)
    return there[0] if len(there) == 1 else None


def of_cell(searches: Mapping[Key, Search], run: Key) -> list[Search]:
    """Returns the searches of a run's model, task, method and budget, of any length and data."""
    return [search for key, search in searches.items() if key.cell == run.cell]


def read(file: Path) -> dict[Key, Search]:
    """Returns the searches of a file. Raises UserError where it cannot be read."""
    try:
        changed = file.stat().st_mtime_ns
    except OSError as e:
        way = ""
        if isinstance(e, FileNotFoundError):
            way = "; python -m dora.tune makes such a file, or give lr="
        raise UserError(f"rates_from={file} cannot be read: {e.strerror}{way}") from e
    return _read(file, changed)


@functools.lru_cache(maxsize=8)  # a sweep asks for each of its runs
def _read(file: Path, changed: int) -> dict[Key, Search]:
    del changed  # part of the cache's key alone
    try:
        found = [_search(entry) for entry in read_object(file)["choices"]]
    except UserError as e:
        raise UserError(*(f"rates_from: {problem}" for problem in e.problems)) from e
    except KeyError as e:
        raise UserError(
            f"rates_from={file} lacks {e}: it is no file of python -m dora.tune, or of an earlier "
            "version; where it is moved away, the commands that made it make it anew from the runs beside it"
        ) from e
    except (TypeError, ValueError, AttributeError) as e:
        raise UserError(f"rates_from={file} is no file of python -m dora.tune ({reason(e)})") from e
    return {search.key: search for search in found}


def _search(entry: Mapping[str, Any]) -> Search:
    """Returns one entry of a file. Raises KeyError, TypeError or ValueError if it is none."""
    key = Key(*(entry[name] for name in Key._fields))
    seeds = tuple(int(seed) for seed in entry["seeds"])
    scores = {float(lr): tuple(by_seed) for lr, by_seed in entry["scores"]}
    losses = {float(lr): tuple(by_seed) for lr, by_seed in entry["losses"]}
    setting, default = entry["setting"], entry["default"]
    values = {value: tuple(by_seed) for value, by_seed in entry["values"]}
    candidates = [*scores.values(), *losses.values(), *values.values()]
    numbers = [s for by_seed in candidates for s in by_seed if s is not None]
    texts = [name for field, name in zip(Key._fields, key, strict=True) if field != "budget"]
    if not all(isinstance(text, str) for text in texts) or not isinstance(key.budget, str | None):
        raise TypeError(f"{', '.join(Key._fields)} are texts, and budget may be null")
    if not scores or not all(0 < lr < math.inf for lr in scores):
        raise ValueError("a search has rates above 0")
    if not all(isinstance(s, int | float) and math.isfinite(s) for s in numbers):
        raise ValueError("scores and losses are numbers")
    if any(len(by_seed) != len(seeds) for by_seed in candidates) or not seeds:
        raise ValueError("every rate has a score, and a loss, for each seed")
    if not isinstance(setting, str | None) or (setting is None and values):
        raise TypeError("the setting whose values were tried has a name")
    made, settings = dict(entry["made"]), dict(entry["settings"])
    return Search(key, seeds, scores, made, setting, default, values, losses, settings)
