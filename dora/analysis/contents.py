"""The contents of a study's tables: scores, differences, medians, costs, published rows beside."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from dora.analysis import counts, published
from dora.analysis.comparison import ALPHA, Difference, differences, leaders
from dora.analysis.grouping import Table, dirty
from dora.analysis.layout import Grid, number_range
from dora.analysis.names import model_title, size_range
from dora.analysis.notes import COSTS_NOTE, MARKS, difference_notes, score_notes
from dora.analysis.rows import Row, budget_in_words
from dora.analysis.stats import Estimate

_FIRST_SCORE = 3  # the columns before are method, budget, parameters


def scores(table: Table) -> Grid:
    """Returns one row a method and budget, one column a task: mean ± standard deviation in points.

    Means are over seeds. The average over tasks comes with its 95 % interval over seeds. Bold:
    `dora.analysis.comparison.leaders`.
    """
    columns = _columns(table)
    rows: list[list[str]] = []
    bold, marks = set(), set()
    for block in table.blocks:
        best = {c.head: leaders(table, block, c.task) for c in columns}
        for row in block:
            texts = [_score(table, row, c) for c in columns]
            # Only marks that occur are explained below the table.
            marks |= {mark for text in texts for mark in MARKS if mark in text}
            bold |= {
                (len(rows), _FIRST_SCORE + j) for j, c in enumerate(columns) if row in best[c.head]
            }
            rows.append(
                [table.title(row[0]), budget_in_words(row), _parameters(table, row), *texts]
            )
    head = ["method", "budget", "adapter parameters", *(c.head for c in columns)]
    notes = score_notes(table, marks, bool(bold))
    return Grid(_caption(table), head, rows, bold=bold, rules=_rules(table), notes=notes)


@dataclass(frozen=True)
class _Column:
    head: str
    task: str | None  # None: the average


def _columns(table: Table) -> list[_Column]:
    """Returns the averaged tasks, their average where there are several, then the tasks apart."""
    view = table.view
    average = [_Column("average [95 %]", None)] if len(table.averaged) > 1 else []
    averaged, apart = (
        [_Column(view.title(t), t) for t in tasks] for tasks in (table.averaged, table.apart)
    )
    return [*averaged, *average, *apart]


def _score(table: Table, row: Row, column: _Column) -> str:
    """Returns a cell: `83.0 ± 3.6*† (n = 2/3)`, a dash without a defined score."""
    task = column.task
    if task is None:
        estimate = table.average(row)
        return "–" if estimate is None else _with_interval(estimate)
    known = list(table.values(row, task).values())
    if not known:
        return "–"
    # One seed has no spread: nothing is shown, rather than ± 0.0.
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    # The number of seeds only where it is not the whole table's.
    number = "" if len(known) == len(table.seeds) else f" (n = {len(known)}/{len(table.seeds)})"
    return f"{statistics.mean(known):.1f}{spread}{_marks_of(table, row, task)}{number}"


def _marks_of(table: Table, row: Row, task: str) -> str:
    """Returns the marks of a cell, in the order of MARKS."""
    runs = table.runs_of(row, task)
    holds = {
        "*": any(run["results"][table.view.score]["degenerate"] for run in runs),
        "†": any(map(dirty, runs)),
        "‡": any(published.departures(table, row, task)),
    }
    return "".join(mark for mark in MARKS if holds[mark])


def _with_interval(estimate: Estimate, sign: str = "") -> str:
    """Returns `71.0 [68.5, 73.5]`, the interval only where it is known; `sign`: "+" or ""."""
    low, high = estimate.interval()
    text = f"{estimate.mean:{sign}.1f}"
    return text if math.isnan(low) else f"{text} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _parameters(table: Table, row: Row) -> str:
    """Returns the parameters that a row's runs store beside the head, or that they are `all`."""
    runs = table.runs_of(row)
    if not runs:
        return "–"
    text = size_range([counts.stored(run) for run in runs])
    return f"all {text}" if all(map(counts.trains_all, runs)) else text


def _caption(table: Table) -> str:
    view = table.view
    return ", ".join(
        [model_title(table.model), f"data {table.data}", f"{view.score} evaluation", *view.choice]
    )


def medians(table: Table) -> Grid:
    """Returns the median of each cell, and the number of its runs."""

    def cell(row: Row, task: str) -> str:
        """Returns `82.0 (3)`, a dash without a score."""
        known = table.values(row, task).values()
        return f"{statistics.median(known):.1f} ({len(known)})" if known else "–"

    tasks = [*table.averaged, *table.apart]
    rows = [
        [table.title(row[0]), budget_in_words(row), *(cell(row, t) for t in tasks)]
        for row in table.rows
    ]
    head = ["method", "budget", *map(table.view.title, tasks)]
    caption = f"{_caption(table)}: median (n)"
    return Grid(caption, head, rows, rules=_rules(table), name="medians")


def _rules(table: Table) -> set[int]:
    """Returns the rows that begin a budget, which have a rule above them."""
    return {sum(map(len, table.blocks[:i])) for i in range(1, len(table.blocks))}


def costs(table: Table) -> Grid:
    """Returns head parameters, training time and peak memory, which scores don't show."""
    rows = []
    for row in table.rows:
        # A row that lost its only cell has no costs, but stays among the scores as a hole.
        if not (runs := table.runs_of(row)):
            continue
        rows.append(
            [
                table.title(row[0]),
                budget_in_words(row),
                str(len(runs)),
                _parameters(table, row),
                size_range([run["params"]["head"] for run in runs]),
                f"{statistics.mean(run['train_s'] for run in runs):,.0f}",
                f"{max(run['peak_memory_bytes'] for run in runs) / 2**20:,.0f}",
            ]
        )
    head = [
        "method",
        "budget",
        "runs",
        "adapter parameters",
        "head parameters",
        "training s a run",
        "peak memory MiB",
    ]
    devices = sorted({run["device"] for run in table.runs})
    notes = [f"on {', '.join(devices)}; {COSTS_NOTE}"]
    caption = f"{_caption(table)}: parameters, time, memory"
    return Grid(caption, head, rows, rules=_rules(table), name="costs", notes=notes)


def against(table: Table, by_task: bool) -> Grid | None:
    """Returns each method less LoRA at the same budget, paired by seed; None without any.

    `shown with 80 % power` is the true difference that the uncorrected test would find in four of
    five studies with these seeds, so the least that they could have shown.
    """
    found = differences(table, by_task)
    if not found:
        return None
    # The column of intervals over examples only where any run has stored predictions.
    shown = any(d.examples for d in found)
    head = [
        "method",
        "budget",
        "score",
        f"− {table.baseline} [95 %, seeds]",
        *(["[95 %, examples]"] if shown else []),
        "p (Holm)",
        "P(better)",
        "shown with 80 % power",
        "seeds",
    ]
    return Grid(
        f"{_caption(table)}: differences from {table.baseline}{' by task' if by_task else ''}",
        head,
        [_difference(table, d, shown) for d in found],
        text_columns=3,
        bold={(i, 3) for i, d in enumerate(found) if d.p < ALPHA},
        notes=difference_notes(found, shown, table.baseline),
        name="differences-by-task" if by_task else "differences",
    )


def _difference(table: Table, d: Difference, shown: bool) -> list[str]:
    """Returns the line of a difference; `shown`: with its interval over examples."""
    of_examples = "–" if d.examples is None else f"[{d.examples[0]:+.1f}, {d.examples[1]:+.1f}]"
    return [
        table.title(d.row[0]),
        budget_in_words(d.row),
        table.view.title(d.task) if d.task else "average",
        _with_interval(d.estimate, "+"),
        *([of_examples] if shown else []),
        _p(d.p),
        f"{d.better:.2f}",
        _points(d.estimate.detectable()),
        number_range(d.seeds),
    ]


def _points(number: float) -> str:
    return "–" if math.isnan(number) else f"{number:.1f}"


def _p(p: float) -> str:
    if math.isnan(p):
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def beside(table: Table) -> Grid | None:
    """Returns the published rows for the backbone, with source and protocol; None without any."""
    groups = published.beside(table.model)
    if not groups:
        return None
    average = [published.AVERAGE] if len(table.averaged) > 1 else []
    columns = [*table.averaged, *average, *table.apart]
    # Numbered like references: each names source, protocol and note once.
    sources = list(dict.fromkeys(key[:3] for key in groups))
    rows = [
        [
            table.title(key[3]),
            key[4],
            _target(group[0].target),
            *(published.shown(group, table, c) for c in columns),
            f"[{sources.index(key[:3]) + 1}]",
        ]
        for key, group in groups.items()
    ]
    heads = [c if c == published.AVERAGE else table.view.title(c) for c in columns]
    notes = [
        "target: the matrices that are adapted; – where a method adapts none, ? where it is not "
        "known"
    ]
    notes += [f"[{i}] {'; '.join(filter(None, source))}" for i, source in enumerate(sources, 1)]
    return Grid(
        f"{model_title(table.model)}: published, under the protocols named below; an average is "
        "over all tasks of its paper",
        ["method", "parameters", "target", *heads, "source"],
        rows,
        text_columns=3,
        notes=notes,
        name="published",
    )


def _target(target: str) -> str:
    return {published.NO_TARGET: "–", "": "?"}.get(target, target)


def findings(table: Table) -> list[Grid]:
    """Returns the scores and the differences that the seeds show; none that repeats another."""
    found = [
        scores(table),
        # The average of one task is that task.
        against(table, by_task=False) if len(table.averaged) > 1 else None,
        against(table, by_task=True),
    ]
    return [grid for grid in found if grid is not None]


def grids(table: Table) -> list[Grid]:
    """Returns every table of one data source and model, scores first."""
    rest = [
        medians(table) if len(table.seeds) > 1 else None,
        costs(table),
        counts.trained(table, _caption(table), _rules(table)),
        counts.federated(table, _caption(table)),
        beside(table),
    ]
    return [*findings(table), *(grid for grid in rest if grid is not None)]
