"""Methods against LoRA at one budget: differences paired by seed, and which of them the seeds can bear.

Each method is tested against LoRA alone, not against every other: a study with three methods at two budgets makes four
comparisons rather than six, and Holm's correction leaves more standing. The averages over tasks are one family of
tests, the single tasks another. Bold in the scores and p in the differences are read off the same tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dora.analysis.grouping import BASELINE, Row, Table, predictions
from dora.analysis.stats import RESAMPLED, Estimate, average, holm, improvement, resampled

ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """A method less LoRA at the same budget, in points, over one task or, `task` None, averaged over tasks.

    `estimate` is of the differences paired by seed, `seeds` their numbers in each task; `p` is corrected for the number
    of comparisons made (Holm). `better`: the probability that a run of this method beats one of LoRA's.
    `examples`: the 95 % interval of the same difference over resamples of the development examples, the seeds
    as they are; None without stored predictions or for a metric that has none (`dora.analysis.stats.resampled`).
    """

    row: Row
    task: str | None
    estimate: Estimate
    seeds: tuple[int, ...]
    better: float
    p: float
    examples: tuple[float, float] | None = None


def pairs(table: Table, row: Row, other: Row, task: str) -> list[float]:
    """One difference, in points, for each seed that both cells have."""
    ours, theirs = table.values(row, task), table.values(other, task)
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def differences(table: Table, by_task: bool = False) -> list[Difference]:
    """Every adapter method less LoRA at its budget, task by task or averaged; all of them are one family for Holm.

    Where there are not two pairs of seeds in every task there is no difference; none at all where the methods'
    evaluations cannot be compared (`Table.comparable`).
    """
    return [
        replace(d, examples=examples(table, d.row, (BASELINE, d.row[1]), d.task)) if d.task else d
        for d in _tested(table, by_task)
    ]


def _tested(table: Table, by_task: bool) -> list[Difference]:
    """The differences without their intervals over examples, which take longest and no verdict needs."""
    found = []
    for row in table.rows if table.comparable else []:
        other = (BASELINE, row[1])
        if row[0] in ("full", BASELINE) or other not in table.cells:
            continue
        for tasks in [[t] for t in table.tasks] if by_task else [table.averaged]:
            groups = [pairs(table, row, other, t) for t in tasks]
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
    """The 95 % interval of the difference over resamples of the development examples, in points.

    Of the runs with a seed that both cells have, so that the difference is the paired one.
    """
    metric = table.view.metric(task)
    shared = table.values(row, task).keys() & table.values(other, task).keys()
    sides = [[run for run in table.runs_of(r, task) if run["seed"] in shared] for r in (row, other)]
    stored = [
        s for side in sides for run in side if (s := predictions(run, task, table.view.score))
    ]
    if metric not in RESAMPLED or len(stored) < sum(map(len, sides)):
        return None
    drawn = resampled(metric, stored[0][0], np.stack([p for _, p in stored]))
    ours = len(sides[0])
    low, high = np.nanpercentile(
        100 * (drawn[:, :ours].mean(1) - drawn[:, ours:].mean(1)), [2.5, 97.5]
    )
    return float(low), float(high)


def leaders(table: Table, block: Sequence[Row], task: str | None = None) -> set[Row]:
    """Finds the rows of a budget that are shown to be better than LoRA on a task, or on average (`task` None).

    Where no row is, LoRA and every row that is not shown to be worse. A difference is shown where `differences` has
    p < 0.05 after its correction, so that no mark contradicts a p value. The highest of a column has no test of
    its own, since it is these scores that made it the highest. A row whose seeds cannot be paired with LoRA's is not
    tested, and never marked. None where there is nothing to compare: no LoRA, no row that can be tested, a
    single seed, or evaluations that are not shared.
    """
    tasks = table.averaged if task is None else [task]
    valued = {row for row in block if tasks and all(table.values(row, t) for t in tasks)}
    baseline = (BASELINE, block[0][1])
    if baseline not in valued or len(valued) < 2 or not table.comparable or len(table.seeds) < 2:
        return set()
    tested = [
        d for d in _tested(table, by_task=task is not None) if d.row in valued and d.task == task
    ]
    shown = {d.row: d.estimate.mean for d in tested if d.p < ALPHA}
    better = {row for row, mean in shown.items() if mean > 0}
    return better or ({baseline, *(d.row for d in tested)} - shown.keys() if tested else set())
