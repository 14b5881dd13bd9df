"""Searches learning rates with equal effort: which to try next, and what was found.

Every method of every task and budget gets as many candidates, by one rule (`next_rates`), and each
candidate as many seeds. The rule looks at nothing but the scores of that method's own candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dora import tuned
from dora.adapters.budget import Budget
from dora.analysis.layout import as_csv
from dora.analysis.searches import heldout, in_order, score_by_rate, table
from dora.analysis.style import images
from dora.cli.line import in_grammar
from dora.config import Config
from dora.errors import UserError
from dora.files import write_atomic
from dora.records import study
from dora.records.provenance import provenance
from dora.records.run_json import read_done
from dora.tuned import Scores, Search

FEWEST = 3  # with two candidates both would lie at an edge
CHOICES = "choices.json"
# Keys that a search sets itself. `rates_from` would be what it is about to find.
_OWN = ("lr", "seed", "select", "results", "rates_from", "force")


def next_rates(scores: Scores, start: float, most: int) -> list[float]:
    """Returns the learning rates to try next; none once `most` have been tried.

    First half of `start`, `start` and twice it. Then one at a time: beyond the best one, by a
    factor of 2, while it lies at an edge; else between the best and the better of its neighbours,
    at their geometric mean. Of equal scores the lower rate is the best.
    """
    if not scores:
        return [_tidy(start / 2), _tidy(start), _tidy(2 * start)]
    if len(scores) >= most:
        return []
    whole = Search("", "", "", None, (), scores)
    rates, best = sorted(scores), whole.lr
    at = rates.index(best)
    if at == 0:
        return [_tidy(best / 2)]
    if at == len(rates) - 1:
        return [_tidy(2 * best)]
    below, above = rates[at - 1], rates[at + 1]
    beside = above if whole.mean(above) > whole.mean(below) else below
    rate = _tidy(math.sqrt(best * beside))
    # Neighbours that differ in the third digit alone have nothing between them.
    return [] if rate in scores else [rate]


def _tidy(rate: float) -> float:
    """Returns the rate in three digits: more of them mean nothing, and would be typed and read."""
    return float(f"{rate:.3g}")


@dataclass
class Group:
    """One search in progress. `words`: those of its runs, less the rate and the seed."""

    words: tuple[str, ...]
    model: str
    task: str
    method: str
    budget: str | None
    start: float
    scores: dict[float, tuple[float | None, ...]] = field(default_factory=dict)

    def search(self, seeds: tuple[int, ...]) -> Search:
        """Returns the search as it is written."""
        return Search(self.model, self.task, self.method, self.budget, seeds, self.scores)


class Tuning:
    """All searches of one command. `grid`: the words of every run of the study to come."""

    def __init__(
        self,
        grid: Sequence[Sequence[str]],
        compose: Callable[[Sequence[str]], Config],
        candidates: int,
        seeds: Sequence[int],
    ) -> None:
        problems = []
        if candidates < FEWEST:
            problems.append(f"candidates={candidates} must be {FEWEST} or more")
        if not seeds or len(set(seeds)) < len(seeds):
            problems.append(f"seeds={list(seeds)} must be one or more different seeds")
        if problems:
            raise UserError(*problems)
        self.candidates, self.seeds, self._compose = candidates, tuple(seeds), compose
        self.groups: dict[tuple[str, ...], Group] = {}
        for job in grid:
            words = tuple(w for w in job if w.lstrip("+").partition("=")[0] not in _OWN)
            if words not in self.groups:
                self.groups[words] = self._group(words, compose(job).results)
        # Full fine-tuning at two budgets is one search.
        by_key = {group.search(self.seeds).key: group for group in self.groups.values()}
        self.groups = {group.words: group for group in by_key.values()}

    def _group(self, words: tuple[str, ...], results: str) -> Group:
        config = self._compose(words)
        self.folder = Path(results) / "search"
        bound = config.chosen.has_budget
        budget = str(Budget.parse(config.budget)) if bound else None
        own = (*words, "select=heldout", in_grammar(f"results={self.folder}", False))
        place = (config.model_name, config.task.name, config.method_name, budget)
        return Group(own, *place, config.learning_rate())

    def jobs(self) -> list[list[str]]:
        """Returns the words of every run of the next round; none once all candidates are tried."""
        self._round = {
            words: next_rates(group.scores, group.start, self.candidates)
            for words, group in self.groups.items()
        }
        return [
            self._words(words, rate, seed)
            for words, rates in self._round.items()
            for rate in rates
            for seed in self.seeds
        ]

    @staticmethod
    def _words(words: tuple[str, ...], rate: float, seed: int) -> list[str]:
        return [*words, f"lr={rate:g}", f"seed={seed}"]

    def round_in_words(self) -> str:
        """Returns a line on the round that `jobs` has begun."""
        rates = sum(map(len, self._round.values()))
        left = sum(bool(rates) for rates in self._round.values())
        return (
            f"{left} of {len(self._round)} searches have fewer than {self.candidates} candidates: "
            f"{rates} more, with {len(self.seeds)} seeds each"
        )

    def take(self, folders: Mapping[tuple[str, ...], Path]) -> None:
        """Reads the scores of the round's runs; `folders`: their directories by their words.

        A run that diverged has no score. Raises UserError for one that is neither done nor has
        diverged, and for one without a held-out score.
        """
        for words, rates in self._round.items():
            for rate in rates:
                each = [tuple(self._words(words, rate, seed)) for seed in self.seeds]
                self.groups[words].scores[rate] = tuple(_score(folders[its]) for its in each)

    def searches(self) -> list[Search]:
        """Returns all searches in the order of tables."""
        return in_order(group.search(self.seeds) for group in self.groups.values())

    def write(self) -> list[str]:
        """Writes choices and figure; returns the lines that show them."""
        found = self.searches()
        about = {"candidates": self.candidates, "seeds": list(self.seeds), **provenance()}
        tuned.write(self.folder / CHOICES, found, about)
        lines = ["", *table(found), "", f"for the study: rates_from={self.folder / CHOICES}"]
        try:
            drawn = score_by_rate(found)
        except ImportError:  # Matplotlib is an optional dependency
            return [*lines, "no figure: pip install matplotlib"]
        if drawn is not None:
            for ending, data in images(drawn[0]).items():
                write_atomic(self.folder / f"learning-rates.{ending}", data)
            write_atomic(self.folder / "learning-rates.csv", as_csv(drawn[1]))
            lines.append(f"figure: {self.folder / 'learning-rates.png'}")
        return lines


def _score(folder: Path) -> float | None:
    run = read_done(folder)
    if run is not None:
        return heldout(run)
    seen = study.look(folder)
    if seen.state == "diverged":
        return None
    raise UserError(f"{folder} is {seen.state}: the same command goes on with the search")
