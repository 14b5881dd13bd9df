"""Methods compared at one budget: differences from a baseline, and the marks of the scores.

Differences are of each method from the baseline alone, LoRA unless a view names another, and not
from every other: a study with three methods at two budgets makes four comparisons rather than six,
and Holm's correction leaves more standing. The averages over tasks are one family of tests, the
single tasks another. The marks say which rows are the best and which the seeds cannot tell from it.
Where the baseline is one of two rows they use these very tests, so that no mark contradicts a p
value.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np

from dora.analysis.rows import has_budget
from dora.analysis.stats import (
    RESAMPLED,
    ROUNDING,
    Estimate,
    average,
    holm,
    improvement,
    resampled,
)
from dora.analysis.table import Table
from dora.records.place import Row

ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """A method less the baseline at the same budget, in points.

    `task`: the task, None for the average over tasks. `estimate`: of the differences paired by
    seed. `seeds`: the number of pairs in each task. `better`: the probability that a run of this
    method beats one of the baseline's. `p`: corrected for the number of comparisons (Holm),
    `family`. `examples`: the 95 % interval of the same difference over resamples of the development
    examples, the seeds held fixed; None without stored predictions or for a metric that cannot be
    resampled (`dora.analysis.stats.resampled`). `constant`: the tasks of an average in which every
    seed gives the same difference, so that they add nothing to its error.
    """

    row: Row
    task: str | None
    estimate: Estimate
    seeds: tuple[int, ...]
    better: float
    p: float
    examples: tuple[float, float] | None = None
    family: int = 1
    constant: tuple[str, ...] = ()

    @property
    def detectable(self) -> float:
        """The true difference that four of five such studies would detect; NaN if unknown.

        Such studies have as many seeds with the same spread, and detect it at p < ALPHA / family,
        Holm's first step.
        """
        return self.estimate.detectable(ALPHA / self.family)


def pairs(table: Table, row: Row, other: Row, task: str) -> list[float]:
    """Returns one difference, in points, for each seed that both cells have."""
    ours, theirs = table.values(row, task), table.values(other, task)
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def _paired(table: Table, row: Row, other: Row, column: str | None) -> list[list[float]]:
    """Returns the differences paired by seed, a group for each task that the column is over.

    It is empty where they cannot be tested.
    """
    groups = [pairs(table, row, other, task) for task in table.over(column)]
    # One pair has no spread, so that nothing can be tested.
    return groups if all(len(group) > 1 for group in groups) else []


def differences(table: Table) -> list[Difference]:
    """Returns every method with a budget less the baseline at it: averaged, then task by task.

    A method is absent without two pairs of seeds in every task that is compared; the list is empty
    where evaluations cannot be compared (`Table.comparable`).
    """
    found = []
    for d in _tested(table):
        other = table.compared_with(d.row)
        of_examples = None if d.task is None else examples(table, d.row, other, d.task)
        found.append(replace(d, examples=of_examples))
    return found


def _families(table: Table) -> list[list[str | None]]:
    """Returns the columns whose tests Holm corrects together: the average, and the tasks."""
    average: list[str | None] = [None] if None in table.columns else []
    return [average, [*table.tasks]]


def _tested(table: Table) -> list[Difference]:
    """Returns the differences without their intervals over examples.

    Those take longest, and no mark depends on them.
    """
    found = []
    for family in _families(table):
        made = [
            _difference(table, row, other, column, groups)
            for row, other in _beside_baseline(table)
            for column in family
            if (groups := _paired(table, row, other, column))
        ]
        corrected = holm([d.p for d in made])
        found += [replace(d, p=p, family=len(made)) for d, p in zip(made, corrected, strict=True)]
    return found


def _beside_baseline(table: Table) -> Iterator[tuple[Row, Row]]:
    """Yields each row that is compared with the baseline, and the baseline's row."""
    for row in table.rows if table.comparable else []:
        other = table.compared_with(row)
        # Without a budget there is no baseline of equal size to compare with.
        if has_budget(row) and row != other and other in table.cells:
            yield row, other


def uncompared(
    table: Table, leading: Mapping[tuple[str, str | None], Leaders]
) -> dict[Row, list[str | None]]:
    """Returns the columns in which rows lack a comparison for want of seeds.

    There the row and the baseline have scores, but share fewer than two seeds. `leading`: the
    leaders; rows that are `untested` beside a leading baseline are left out.
    """
    found: dict[Row, list[str | None]] = {}
    for (row, other), column in product(_beside_baseline(table), table.columns):
        # A cell without a score is seen as a hole.
        scored = all(table.values(r, t) for r in (row, other) for t in table.over(column))
        beside = leading.get((row.budget, column))
        said = beside is not None and other in beside.best and row in beside.untested
        if scored and not said and not _paired(table, row, other, column):
            found.setdefault(row, []).append(column)
    # With one seed in the whole table nothing is compared, which a note of its own says.
    return found if len(table.seeds) > 1 else {}


def _difference(
    table: Table, row: Row, other: Row, column: str | None, groups: list[list[float]]
) -> Difference:
    """Returns a difference whose p value is not corrected yet; `groups`: its pairs by task."""
    tasks = table.over(column)
    scores = [[list(table.values(r, t).values()) for t in tasks] for r in (row, other)]
    estimate = average(groups)
    return Difference(
        row,
        column,
        estimate,
        tuple(map(len, groups)),
        improvement(*scores),
        estimate.p_value(),
        constant=tuple(t for t, g in zip(tasks, groups, strict=True) if average([g]).error == 0),
    )


@functools.cache  # a table's texts, CSV and figures ask for it, and it draws 1,000 resamples
def examples(table: Table, row: Row, other: Row, task: str) -> tuple[float, float] | None:
    """Returns the 95 % interval of the difference over resamples of the development examples.

    In points. None unless all these runs have stored predictions and the metric can be resampled.
    """
    metric = table.view.metric(task)
    # The runs with a seed that both cells have, so that the difference is the paired one.
    shared = table.values(row, task).keys() & table.values(other, task).keys()
    sides = [[run for run in table.runs_of(r, task) if run["seed"] in shared] for r in (row, other)]
    # Damaged predictions count as none, so that the interval is of all seeds or absent.
    score = table.view.score
    stored = [
        run["predicted"][score] for side in sides for run in side if score in run["predicted"]
    ]
    if metric not in RESAMPLED or len(stored) < sum(map(len, sides)):
        return None
    # One set of resamples for both sides: the difference is paired by example, too.
    drawn = resampled(metric, stored[0].labels, np.stack([s.predictions for s in stored]))
    ours = len(sides[0])
    # NaN where a resample leaves the metric undefined, as F1 without a positive.
    low, high = np.nanpercentile(
        100 * (drawn[:, :ours].mean(1) - drawn[:, ours:].mean(1)), [2.5, 97.5]
    )
    return float(low), float(high)


@dataclass(frozen=True)
class Leaders:
    """The best rows of one budget in one column, and those that the seeds cannot tell from them.

    The best are several where means are equal. `untested`: rows with a score that no test compares
    with any of the best, since they share fewer than two seeds; their means may be higher.
    """

    best: frozenset[Row]
    alike: frozenset[Row]
    untested: frozenset[Row] = frozenset()


def leaders(table: Table) -> dict[tuple[str, str | None], Leaders]:
    """Returns the leaders of each (budget, column).

    A row is *lower* than another if a test shows it, with p < 0.05. The best row has the highest
    mean among the tested rows that are lower than none. With unequal seeds this need not be the row
    with the highest mean of all. *Alike* are the rows that are tested with one of the best and are
    lower than none of them. A row that shares fewer than two seeds with each of the best is not
    tested, and gets no mark.

    Tests with the baseline are those of `differences`, so that no mark contradicts a p value. All
    other pairs at a budget are a second family for Holm: all of them, because the same scores show
    which row is the best. A budget has no leaders where nothing can be tested: one row, one seed,
    or evaluations that are not shared. Rows without a budget have none, because they differ in
    size.
    """
    told = _told_apart(table)
    found = {}
    for block in filter(lambda block: has_budget(block[0]), table.blocks):
        for column in table.columns:
            scored = {row: e.mean for row in block if (e := table.mean(row, column))}
            means = {
                row: mean
                for row, mean in scored.items()
                if any((row, other, column) in told for other in block)
            }
            lower = {row for row in means for other in block if told.get((other, row, column))}
            if leading := means.keys() - lower:
                highest = max(means[row] for row in leading)
                # Equal means of unequal scores may differ in their last bits.
                best = frozenset(row for row in leading if highest - means[row] <= ROUNDING)
                # With each of the best: whether it is shown to be higher, None without a test.
                beaten = {
                    row: {told.get((one, row, column)) for one in best}
                    for row in scored.keys() - best
                }
                alike = frozenset(
                    row for row, its in beaten.items() if False in its and True not in its
                )
                untested = frozenset(row for row, its in beaten.items() if its == {None})
                found[block[0][1], column] = Leaders(best, alike, untested)
    return found


def _told_apart(table: Table) -> dict[tuple[Row, Row, str | None], bool]:
    """Returns for each tested (row, other, column) whether the row is shown to be the higher one."""
    if not table.comparable:
        return {}
    tested = [
        ((d.row, table.compared_with(d.row), d.task), d.estimate.mean, d.p) for d in _tested(table)
    ]
    # All pairs of rows at a budget without the baseline, whose pairs are the differences.
    rest = [
        pair
        for block in filter(lambda block: has_budget(block[0]), table.blocks)
        for pair in combinations([row for row in block if row.method != table.view.baseline], 2)
    ]
    for family in _families(table):
        others = [
            ((one, two, column), average(groups))
            for (one, two), column in product(rest, family)
            if (groups := _paired(table, one, two, column))
        ]
        corrected = holm([estimate.p_value() for _, estimate in others])
        tested += [(key, e.mean, p) for (key, e), p in zip(others, corrected, strict=True)]
    told = {}
    for (one, two, column), mean, p in tested:
        # NaN is not below: a difference whose error is unknown is not shown.
        told[one, two, column] = p < ALPHA and mean > 0
        told[two, one, column] = p < ALPHA and mean < 0
    return told
