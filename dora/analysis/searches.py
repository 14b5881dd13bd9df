"""Searches of learning rates: the scores of their runs, and the order in which they stand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dora.analysis.rows import length_order, row_order
from dora.configuration.search_file import Search
from dora.data.tasks import TASKS, score_key
from dora.records import journals
from dora.records.about_method import NO_BUDGET
from dora.records.place import Row
from dora.records.schema import Run


def heldout(run: Run) -> float | None:
    """Returns a run's held-out score in points: the task's first metric at its best evaluation.

    It is None if undefined, as STS-B's where all predictions are equal after a rate far too high.
    """
    score = run["results"]["best"].get(_metric(run))
    return None if score is None else 100 * float(score)


def _metric(run: Run) -> str:
    """Returns the name under which a record has the held-out score: `accuracy_heldout`."""
    return score_key(TASKS[run["config"]["task"]].metrics[0], "heldout")


def heldout_loss(run: Run, folder: Path) -> float | None:
    """Returns a run's held-out loss, in nats; for a regression the squared error.

    Where a method learns little, several of the evaluations that count have the best score: this is
    the lowest of their losses. It is None where `folder` has no journal, or a damaged one.
    """
    metric = _metric(run)
    best, counted = run["results"]["best"].get(metric), run["evaluations"]["from_step"]
    try:
        losses = dict(journals.curve(folder, "heldout", score_key("loss", "heldout")))
        scores = dict(journals.curve(folder, "heldout", metric))
    except (OSError, ValueError):
        return None
    equal = [step for step, score in scores.items() if step >= counted and score == best]
    return min((losses[step] for step in equal if step in losses), default=None)


def in_order(searches: Iterable[Search]) -> list[Search]:
    """Returns the searches by model, then task, then the rows of tables."""
    tasks = list(TASKS)

    def place(search: Search) -> tuple[Any, ...]:
        key = search.key
        row = row_order(Row(key.method, key.budget or NO_BUDGET))
        length = length_order(key.length)
        return key.model, tasks.index(key.task), length, key.data, row

    return sorted(searches, key=place)


def unequal(searches: Iterable[Search]) -> list[str]:
    """Returns the tasks whose methods had unequal numbers of candidates or seeds."""
    effort = defaultdict(set)
    for s in searches:
        effort[s.key._replace(method="", budget=None)].add((s.candidates, len(s.seeds)))
    return sorted({key.task for key, kinds in effort.items() if len(kinds) > 1})
