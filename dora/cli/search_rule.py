"""Chooses the candidate that a search tries next, by one rule for every method.

Learning rates come first, and at the best of them the values of a setting of the method's own, if
its YAML names one. The rule looks at that method's own candidates alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dora.configuration.search_file import BySeed, Search, Value
from dora.records.words import with_values


def next_rates(search: Search, start: float, most: int) -> list[float]:
    """Returns the learning rates to try next; none once `most` have been tried.

    First half of `start`, `start` and twice it. Then one at a time: beyond the best one, by a
    factor of 2, while it lies at an edge; else in the middle, on a logarithmic scale, of the wider
    of the gaps beside it, or of the one towards the better neighbour if they are equal. Where
    scores are equal, the lower held-out loss is better, and where losses are equal or not known,
    the lower rate. `search`: what was tried so far.
    """
    scores = search.scores
    if not scores:
        return first_rates(start)
    if len(scores) >= most:
        return []
    rates, best = sorted(scores), search.lr
    at = rates.index(best)
    if at == 0:
        return [_tidy(best / 2)]
    if at == len(rates) - 1:
        return [_tidy(2 * best)]
    below, above = rates[at - 1], rates[at + 1]
    up, down = math.log(above / best), math.log(best / below)
    if math.isclose(up, down, rel_tol=0.1):  # the same but for their three digits
        wider = above if search.merit(above) > search.merit(below) else below
    else:
        wider = above if up > down else below
    rate = _tidy(math.sqrt(best * wider))
    # Neighbours that differ in the third digit alone have nothing between them.
    return [] if rate in scores else [rate]


def first_rates(start: float) -> list[float]:
    """Returns the learning rates with which a search begins at `start`."""
    return [_tidy(start / 2), _tidy(start), _tidy(2 * start)]


def _tidy(rate: float) -> float:
    """Returns the rate in three digits: more of them mean nothing, and would be typed and read."""
    return float(f"{rate:.3g}")


@dataclass(frozen=True)
class Candidate:
    """A learning rate, and a value of the method's own setting; None for its default."""

    lr: float
    value: Value | None = None


@dataclass
class OpenSearch:
    """One search in progress. `words`: those of its runs, less the rate and the seed.

    `found`: what was tried so far. `start`: the rate where it begins. `others`: the values of the
    method's setting to try beside its default. `held`: the rates of an earlier search, which this
    one goes on with if it begins at the same place.
    """

    words: tuple[str, ...]
    found: Search
    start: float
    others: tuple[Value, ...] = ()
    held: tuple[float, ...] = ()

    def next(self, most: int) -> list[Candidate]:
        """Returns the candidates to try next; none once `most` have been tried.

        Rates first, then all values at once at the best of them: had each rate been tried with each
        value, few rates would be left of equal effort.
        """
        rates = next_rates(self.found, self.start, most - len(self.others))
        # Rates that were tried stay tried, though another version's rule may have come to others.
        if not self.found.scores and set(rates) <= set(self.held):
            return [Candidate(rate) for rate in self.held]
        if rates or self.found.values or not self.others:
            return [Candidate(rate) for rate in rates]
        return [Candidate(self.found.lr, value) for value in self.others]

    def words_of(self, candidate: Candidate, seed: int) -> tuple[str, ...]:
        """Returns the words of a candidate's run."""
        value = {}
        if candidate.value is not None:
            value = {f"method.{self.found.setting}": candidate.value}
        return with_values(self.words, **value, lr=f"{candidate.lr:g}", seed=seed)

    def take(self, candidate: Candidate, scores: BySeed, losses: BySeed = ()) -> None:
        """Notes a candidate's scores and losses by seed."""
        found = self.found
        if candidate.value is None:
            losses = losses or (None,) * len(scores)
            self.found = replace(
                found,
                scores={**found.scores, candidate.lr: scores},
                losses={**found.losses, candidate.lr: losses},
            )
        else:
            self.found = replace(found, values={**found.values, candidate.value: scores})
