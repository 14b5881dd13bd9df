"""Methods compared with LoRA at one budget: paired differences, and which of them the seeds show.

Each method is tested against LoRA alone, not against every other: a study with three methods at two
budgets makes four comparisons rather than six, and Holm's correction leaves more standing. The
averages over tasks are one family of tests, the single tasks another. Bold in the scores and p in
the differences are read off the same tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dora.analysis.grouping import Table, predictions
from dora.analysis.rows import BASELINE, Row, has_budget
from dora.analysis.stats import RESAMPLED, Estimate, average, holm, improvement, resampled

ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """A method less LoRA at the same budget, in points.

    `task`: the task, None for the average over tasks. `estimate`: of the differences paired by
    seed. `seeds`: the number of pairs in each task. `better`: the probability that a run of this
    method beats one of LoRA's. `p`: corrected for the number of comparisons made (Holm).
    `examples`: the 95 % interval of the same difference over resamples of the development examples,
    the seeds held fixed; None without stored predictions or for a metric that cannot be resampled
    (`dora.analysis.stats.resampled`).
    """

    row: Row
    task: str | None
    estimate: Estimate
    seeds: tuple[int, ...]
    better: float
    p: float
    examples: tuple[float, float] | None = None


def pairs(table: Table, row: Row, other: Row, task: str) -> list[float]:
    """Returns one difference, in points, for each seed that both cells have."""
    ours, theirs = table.values(row, task), table.values(other, task)
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def differences(table: Table, by_task: bool = False) -> list[Difference]:
    """Returns every method with a budget less LoRA at that budget, task by task or averaged.

    All of them are one family for Holm. A method is absent without two pairs of seeds in every
    task; the list is empty where evaluations cannot be compared (`Table.comparable`).
    """
    found = []
    for d in _tested(table, by_task):
        other = (BASELINE, d.row[1])
        of_examples = None if d.task is None else _examples_once(table, d.row, other, d.task)
        found.append(replace(d, examples=of_examples))
    return found


def _tested(table: Table, by_task: bool) -> list[Difference]:
    """Returns the differences without their intervals over examples.

    Those take longest, and no mark depends on them.
    """
    found = []
    for row in table.rows if table.comparable else []:
        other = (BASELINE, row[1])
        # Without a budget there is no LoRA of equal size to compare with.
        if not has_budget(row) or row == other or other not in table.cells:
            continue
        for tasks in [[t] for t in table.tasks] if by_task else [table.averaged]:
            groups = [pairs(table, row, other, t) for t in tasks]
            # One pair has no spread, so that nothing can be tested.
            if groups and all(len(g) > 1 for g in groups):
                found.append(_difference(table, row, other, tasks, groups, by_task))
    corrected = holm([d.estimate.p_value() for d in found])
    return [replace(d, p=p) for d, p in zip(found, corrected, strict=True)]


def _difference(
    table: Table,
    row: Row,
    other: Row,
    tasks: Sequence[str],
    groups: list[list[float]],
    by_task: bool,
) -> Difference:
    scores = [[list(table.values(r, t).values()) for t in tasks] for r in (row, other)]
    estimate = average(groups)
    return Difference(
        row,
        tasks[0] if by_task else None,
        estimate,
        tuple(map(len, groups)),
        improvement(*scores),
        estimate.p_value(),
    )


def examples(table: Table, row: Row, other: Row, task: str) -> tuple[float, float] | None:
    """Returns the 95 % interval of the difference over resamples of the development examples.

    In points. None unless all these runs have stored predictions and the metric can be resampled.
    """
    metric = table.view.metric(task)
    # The runs with a seed that both cells have, so that the difference is the paired one.
    shared = table.values(row, task).keys() & table.values(other, task).keys()
    sides = [[run for run in table.runs_of(r, task) if run["seed"] in shared] for r in (row, other)]
    # Damaged predictions count as none, so that the interval is of all seeds or absent.
    stored = [
        s for side in sides for run in side if (s := predictions(run, task, table.view.score))
    ]
    if metric not in RESAMPLED or len(stored) < sum(map(len, sides)):
        return None
    # One set of resamples for both sides: the difference is paired by example, too.
    drawn = resampled(metric, stored[0][0], np.stack([p for _, p in stored]))
    ours = len(sides[0])
    # NaN where a resample leaves the metric undefined, as F1 without a positive.
    low, high = np.nanpercentile(
        100 * (drawn[:, :ours].mean(1) - drawn[:, ours:].mean(1)), [2.5, 97.5]
    )
    return float(low), float(high)


def _examples_once(table: Table, row: Row, other: Row, task: str) -> tuple[float, float] | None:
    """Returns `examples`, computed once for all texts that are made of a table."""
    if (key := (row, other, task)) not in table.examples:
        table.examples[key] = examples(table, row, other, task)
    return table.examples[key]


def leaders(table: Table, block: Sequence[Row], task: str | None = None) -> set[Row]:
    """Returns the rows of one budget to print bold, on a task or on average (`task` None).

    These are the rows that are shown to be better than LoRA; where none is, LoRA and every tested
    row that is not shown to be worse. A difference is shown where `differences` has p < 0.05 after
    its correction, so that no mark contradicts a p value. A row whose seeds cannot be paired with
    LoRA's is not tested, and never marked. The set is empty where nothing can be compared: no LoRA,
    no row that can be tested, a single seed, or evaluations that are not shared.
    """
    # The highest score of a column has no mark of its own: it has no test, since it is these very
    # scores that made it the highest.
    tasks = table.averaged if task is None else [task]
    valued = {row for row in block if tasks and all(table.values(row, t) for t in tasks)}
    baseline = (BASELINE, block[0][1])
    if baseline not in valued or len(valued) < 2 or not table.comparable or len(table.seeds) < 2:
        return set()
    # All budgets are tested at once, though one is asked for: Holm's family is the whole table.
    tested = [
        d for d in _tested(table, by_task=task is not None) if d.row in valued and d.task == task
    ]
    shown = {d.row: d.estimate.mean for d in tested if d.p < ALPHA}
    better = {row for row, mean in shown.items() if mean > 0}
    if better or not tested:
        return better
    return {baseline, *(d.row for d in tested)} - shown.keys()
