"""The tables of a study as text: scores, differences, medians, costs, and published rows beside them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dora.analysis import published
from dora.analysis.comparison import ALPHA, differences, leaders
from dora.analysis.grouping import BASELINE, Row, Table, budget_in_words, dirty
from dora.analysis.layout import Grid
from dora.analysis.settings_that_differ import sources, unlike
from dora.analysis.stats import Estimate
from dora.data.tasks import TASKS


def scores(table: Table) -> Grid:
    """One row a method and budget, one column a task: mean ± standard deviation over seeds, in points.

    The average over tasks comes with its 95 % interval over seeds. Bold: `dora.analysis.comparison.leaders`.
    """
    columns = _columns(table)
    rows: list[list[str]] = []
    bold, marks = set(), set()
    for block in table.blocks:
        best = {c.head: leaders(table, block, c.task) for c in columns}
        for row in block:
            texts = [_score(table, row, c) for c in columns]
            marks |= {mark for text in texts for mark in "*†‡" if mark in text}
            bold |= {(len(rows), 3 + j) for j, c in enumerate(columns) if row in best[c.head]}
            rows.append([row[0], budget_in_words(row), _parameters(table, row), *texts])
    head = ["method", "budget", "adapter parameters", *(c.head for c in columns)]
    return Grid(
        _caption(table),
        head,
        rows,
        bold=bold,
        rules=_rules(table),
        notes=_notes(table, marks, bool(bold)),
    )


@dataclass(frozen=True)
class _Column:
    head: str
    task: str | None  # None: the average


def _columns(table: Table) -> list[_Column]:
    """The averaged tasks, their average where there are several, the tasks apart."""
    view = table.view
    average = [_Column("average [95 %]", None)] if len(table.averaged) > 1 else []
    averaged, apart = (
        [_Column(view.title(t), t) for t in tasks] for tasks in (table.averaged, table.apart)
    )
    return [*averaged, *average, *apart]


def _score(table: Table, row: Row, column: _Column) -> str:
    task = column.task
    if task is None:
        estimate = table.average(row)
        return "–" if estimate is None else _with_interval(estimate)
    known = list(table.values(row, task).values())
    if not known:
        return "–"
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    runs = table.runs_of(row, task)
    marks = [
        ("*", any(run["results"][table.view.score]["degenerate"] for run in runs)),
        ("†", any(map(dirty, runs))),
        ("‡", any(published.departures(table, row, task))),
    ]
    number = "" if len(known) == len(table.seeds) else f" (n = {len(known)}/{len(table.seeds)})"
    return f"{statistics.mean(known):.1f}{spread}{''.join(m for m, yes in marks if yes)}{number}"


def _with_interval(estimate: Estimate, sign: str = "") -> str:
    low, high = estimate.interval()
    text = f"{estimate.mean:{sign}.1f}"
    return text if math.isnan(low) else f"{text} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _parameters(table: Table, row: Row) -> str:
    runs = table.runs_of(row)
    if not runs:
        return "–"
    if row[0] == "full":
        return f"all {runs[0]['params']['trainable'] - runs[0]['params']['head']:,}"
    return _range([run["params"]["adapter_end"] for run in runs])


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _caption(table: Table) -> str:
    return ", ".join(
        [table.model, f"data {table.data}", f"{table.view.score} evaluation", *table.view.choice]
    )


def _notes(table: Table, marks: set[str], bold: bool) -> list[str]:
    """What a reader must know of the scores: seeds, embedded model or data, a backbone's past, marks."""
    runs = list(table.runs)
    found = sorted({text for run in runs for text in (run["embedded"], run["note"]) if text})
    seeds = len(table.seeds)
    found.append(
        f"mean ± standard deviation over {seeds} seeds"
        if seeds > 1
        else "one seed: no spread is known"
    )
    if table.view.score == "best":
        counted = _range([run["evaluations"]["counted"] for run in runs])
        found.append(f"the best of {counted} development evaluations in the second half of a run")
        if not table.comparable:
            found.append(
                "runs of one task have unequal evaluations, so that no method is compared with another: "
                "see --score last"
            )
    else:
        found.append("the last development evaluation of a run")
    chosen = [t for t in table.tasks if table.view.metric(t) != TASKS[t].metrics[0]]
    if chosen and table.view.score == "best":
        found.append(
            f"the best evaluation is still that by {', '.join(f'{t} {TASKS[t].metrics[0]}' for t in chosen)}"
        )
    if bold:
        found.append(
            f"bold: shown to be better than {BASELINE} at its budget; where no method is, {BASELINE} and every one that is "
            f"not shown to be worse (p < {ALPHA} in the tables of differences)"
        )
    found += [f"left out: {text}" for text in table.left_out]
    found += [*unlike(table), *sources(table)]
    explained = {
        "*": "* at least one run predicts a single class or value",
        "†": "† at least one run was made with uncommitted changes",
        "‡": "‡ further from the published mean ± spread than the combined error",
    }
    return found + [explained[mark] for mark in "*†‡" if mark in marks]


def medians(table: Table) -> Grid:
    """The median of each cell, and of how many runs."""

    def cell(row: Row, task: str) -> str:
        known = table.values(row, task).values()
        return f"{statistics.median(known):.1f} ({len(known)})" if known else "–"

    tasks = [*table.averaged, *table.apart]
    rows = [[row[0], budget_in_words(row), *(cell(row, t) for t in tasks)] for row in table.rows]
    return Grid(
        f"{_caption(table)}: median (n)",
        ["method", "budget", *map(table.view.title, tasks)],
        rows,
        rules=_rules(table),
        name="medians",
    )


def _rules(table: Table) -> set[int]:
    ends = [sum(map(len, table.blocks[:i])) for i in range(1, len(table.blocks))]
    return set(ends)


def costs(table: Table) -> Grid:
    """Head parameters, training time and peak memory, which scores don't show."""
    rows = []
    for row in table.rows:
        if not (runs := table.runs_of(row)):
            continue
        rows.append(
            [
                row[0],
                budget_in_words(row),
                str(len(runs)),
                _parameters(table, row),
                _range([run["params"]["head"] for run in runs]),
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
    return Grid(
        f"{_caption(table)}: parameters, time, memory",
        head,
        rows,
        rules=_rules(table),
        name="costs",
        notes=[
            f"on {', '.join(devices)}; the seconds are of training alone, mean over runs; the memory is the "
            "most that any run's process took: where one process trained several runs, what it still held of "
            "those before is in it"
        ],
    )


def against(table: Table, by_task: bool) -> Grid | None:
    """Each adapter method less LoRA at the same budget, paired by seed; None where nothing can be compared.

    `shown with 80 % power` is what these seeds could have shown at all: the true difference that the uncorrected
    test would find in four of five such studies.
    """
    found = differences(table, by_task)
    if not found:
        return None
    what = [table.view.title(d.task) if d.task else "average" for d in found]
    shown = any(d.examples for d in found)
    rows = [
        [
            d.row[0],
            budget_in_words(d.row),
            name,
            _with_interval(d.estimate, "+"),
            *(
                ["–" if d.examples is None else f"[{d.examples[0]:+.1f}, {d.examples[1]:+.1f}]"]
                if shown
                else []
            ),
            _p(d.p),
            f"{d.better:.2f}",
            _points(d.estimate.detectable()),
            _range(d.seeds),
        ]
        for d, name in zip(found, what, strict=True)
    ]
    head = [
        "method",
        "budget",
        "score",
        f"− {BASELINE} [95 %, seeds]",
        *(["[95 %, examples]"] if shown else []),
        "p (Holm)",
        "P(better)",
        "shown with 80 % power",
        "seeds",
    ]
    bold = {(i, 3) for i, d in enumerate(found) if d.p < ALPHA}
    tested = sum(not math.isnan(d.p) for d in found)
    notes = [
        f"points, paired by seed; p corrected for the number of comparisons in this table, {tested} (Holm); bold: "
        f"p < {ALPHA}; P(better): that a run of the method beats one of {BASELINE}"
    ]
    if any(d.estimate.error == 0 for d in found):
        notes.append(
            "no interval: every seed gives the same difference, which leaves its error unknown; p –, and 1 for a difference of 0"
        )
    if shown:
        notes.append(
            "[95 %, examples]: over resamples of the development examples, the seeds as they are"
        )
    return Grid(
        f"{_caption(table)}: differences from {BASELINE}{' by task' if by_task else ''}",
        head,
        rows,
        text_columns=3,
        bold=bold,
        notes=notes,
        name=f"differences{'-by-task' if by_task else ''}",
    )


def _points(number: float) -> str:
    return "–" if math.isnan(number) else f"{number:.1f}"


def _p(p: float) -> str:
    return "–" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def beside(table: Table) -> Grid | None:
    """Published rows for the same backbone, with source and protocol; None where there is none."""
    groups = published.beside(table.model)
    if not groups:
        return None
    average = [published.AVERAGE] if len(table.averaged) > 1 else []
    columns = [*table.averaged, *average, *table.apart]
    sources = list(dict.fromkeys(key[:3] for key in groups))
    rows = [
        [
            key[3],
            key[4],
            _target(group[0].target),
            *(published.shown(group, table, c) for c in columns),
            f"[{sources.index(key[:3]) + 1}]",
        ]
        for key, group in groups.items()
    ]
    heads = [c if c == published.AVERAGE else table.view.title(c) for c in columns]
    notes = [f"[{i}] {'; '.join(filter(None, source))}" for i, source in enumerate(sources, 1)]
    notes.insert(
        0,
        "target: the matrices that are adapted; – where a method adapts none, ? where it is not known",
    )
    return Grid(
        f"{table.model}: published, under the protocols named below; an average is over all tasks of its paper",
        ["method", "parameters", "target", *heads, "source"],
        rows,
        text_columns=3,
        notes=notes,
        name="published",
    )


def _target(published: str) -> str:
    return {"none": "–", "": "?"}.get(published, published)


def findings(table: Table) -> list[Grid]:
    """The scores and what the seeds tell apart; none that would repeat another."""
    found = [
        scores(table),
        against(table, by_task=False) if len(table.averaged) > 1 else None,
        against(table, by_task=True),
    ]
    return [grid for grid in found if grid is not None]


def grids(table: Table) -> list[Grid]:
    """Every table of one data source and model, scores first."""
    rest = [medians(table) if len(table.seeds) > 1 else None, costs(table), beside(table)]
    return [*findings(table), *(grid for grid in rest if grid is not None)]
