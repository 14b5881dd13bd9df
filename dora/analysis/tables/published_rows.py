"""Published rows as lines of the table of scores, each with a dagger that names its source."""

from __future__ import annotations

import string
from collections.abc import Sequence

from dora.adapters.budget import Budget
from dora.analysis import published
from dora.analysis.names import size
from dora.analysis.published import Number
from dora.analysis.table import Table
from dora.analysis.view import in_head
from dora.data.tasks import TASKS
from dora.records.about_data import is_glue

# Marks a number whose runs did not start from the pretrained backbone alone.
STARTED = "⋄"
_Source = tuple[str, str, str]  # source, protocol, note


def published_rows(table: Table) -> tuple[list[list[str]], list[str]]:
    """Returns (lines, notes): published numbers for the table's backbone and methods, their sources.

    The lines stand under the head of the table of scores. One without a number in any of the
    table's columns is left out, and so is a number on a task of which the table has other rows than
    GLUE's: a score on generated sentences, or on a sample, says nothing beside it. Nor does one of
    weights drawn from a seed, which have the pretrained backbone's name alone.
    """
    if any(run["model"]["random_weights"] for run in table.runs):
        return [], []
    on_glue = {
        task
        for task in table.tasks
        if all(is_glue(run) for row in table.rows for run in table.runs_of(row, task))
    }
    found: dict[_Source, dict[tuple[str, str], list[Number]]] = {}
    lines: list[tuple[_Source, list[str]]] = []
    for (source, protocol, note, method, params), group in published.rows_for(table.model).items():
        cells = [
            _cell(table, group, column) if on_glue.issuperset(table.over(column)) else "–"
            for column in table.columns
        ]
        chosen = method in (table.view.methods or (method,))
        if chosen and any(cell != "–" for cell in cells):
            printed = (source, protocol, note)
            found.setdefault(printed, {})[method, params] = group
            lines.append((printed, [table.title(method), *_sizes(method, params), *cells]))
    marks = dict(zip(found, string.ascii_lowercase, strict=False))
    rows = [[f"{name} †{marks[printed]}", *rest] for printed, (name, *rest) in lines]
    notes = [
        f"†{marks[printed]} published: {'; '.join([*filter(None, printed), *_targets(table, groups)])}"
        for printed, groups in found.items()
    ]
    if any(STARTED in cell for row in rows for cell in row):
        starts = {n.start for groups in found.values() for g in groups.values() for n in g}
        named = ", ".join(TASKS[task].folder for task in sorted(starts - {""}))
        notes.append(f"{STARTED} started from the adapter of {named}")
    return rows, notes


def _cell(table: Table, group: Sequence[Number], task: str | None) -> str:
    """Returns `86.6 ± 0.7⋄`, a dash without a number.

    The metric follows where it is not the table's. A paper's average is shown only where it is over
    the tasks of the table's own.
    """
    known = [n for n in group if n.value is not None]
    metrics = {(n.task, n.metric) for n in known}
    over = {n.task for n in known} - {published.AVERAGE}
    if task is None and over != set(table.averaged):
        return "–"
    wanted = [(t, table.view.metric(t)) for t in table.over(task)]
    of_task = [n for n in known if n.task == (task or published.AVERAGE)]
    # A number by another metric is still worth showing, with its name.
    best = next((n for n in of_task if (n.task, n.metric) in wanted), next(iter(of_task), None))
    if best is None:
        return "–"
    spread = "" if best.spread is None else f" ± {best.spread:.1f}"
    text = f"{best.value:.1f}{spread}{STARTED if best.start else ''}"
    if metrics.issuperset(wanted):
        return text
    name = "other metrics" if task is None else in_head(best.metric).replace("_", " ")
    return f"{text} ({name})"


def _sizes(method: str, params: str) -> tuple[str, str]:
    """Returns the cells of budget and parameters: `r8` is a budget, `0.3M` a size."""
    if params.startswith("r"):
        return params, "–"
    if not params:
        return "–", "–"
    number = size(Budget.parse(params).params or 0)
    return "–", f"all {number}" if method == "full" else number


def _targets(table: Table, groups: dict[tuple[str, str], list[Number]]) -> list[str]:
    """Returns which matrices a source's methods adapt; nothing where none of them adapts any."""
    by_target: dict[str, list[str]] = {}
    for (method, _), group in groups.items():
        if (target := group[0].target) != published.NO_TARGET:
            names = by_target.setdefault(target, [])
            names += [table.title(method)] if table.title(method) not in names else []
    return [
        f"{', '.join(names)} on {_matrices(target)}" for target, names in sorted(by_target.items())
    ]


def _matrices(target: str) -> str:
    return {"all": "all matrices", "": "matrices not stated"}.get(target, target)
