"""Runs of the results folder beside those in a table: diverged, missing, and those of the search."""

from __future__ import annotations

from collections.abc import Iterable

from dora.analysis.table import Table
from dora.records import gaps
from dora.records.place import Row, place_of
from dora.records.study import NOTHING_LEFT, Seen


def _of_table(table: Table, seen: Iterable[Seen]) -> list[Seen]:
    """Returns the runs on the table's data source and model."""
    return [s for s in seen if (s.place.data, s.place.model) == (table.data, table.model)]


def diverged(table: Table, seen: Iterable[Seen]) -> dict[tuple[Row, str], list[int]]:
    """Returns the seeds of each cell that diverged, which the table's means would otherwise hide.

    In a table of chosen settings these are the runs of a cell's own configuration alone: whether
    another one that has no result would be chosen is not known.
    """
    words = (word.partition("=") for word in table.view.where)
    seeds = {value for key, _, value in words if key == "seed"}
    found: dict[tuple[Row, str], list[int]] = {}
    for s in _of_table(table, seen):
        place, seed = s.place, s.place.seed[1:]  # without its `s`
        if s.state != "diverged" or (seeds and seed not in seeds):
            continue
        shown = table.view.shows(place.task, place.method)
        if not shown or table.steps not in (None, s.total_steps):
            continue
        its = table.cells.get(place.row, {}).get(place.task, [])
        # Another configuration, such as a rate that was tried first, is none of the cell's.
        keys = {place_of(run["folder"]).key for run in its}
        if (not its and not table.view.where) or place.key in keys:
            found.setdefault((place.row, place.task), []).append(int(seed))
    return found


def search_seconds(table: Table, seen: Iterable[Seen]) -> list[float]:
    """Returns the seconds of each run of the search that chose the table's settings.

    `seen`: all runs of the search's folder. Those of the table's rows, tasks and lengths count,
    whether or not they ended. For a method that was not searched at its budget, the runs at its
    other budgets count, whose rates it has.
    """
    lengths = {run["total_steps"] for run in table.runs}
    here = [
        s
        for s in _of_table(table, seen)
        if s.place.task in table.tasks and s.total_steps in lengths and s.seconds is not None
    ]
    rows = {s.place.row for s in here}
    elsewhere = {method for method, spent in table.cells if (method, spent) not in rows}
    return [
        float(s.seconds or 0)
        for s in here
        if s.place.row in table.cells or s.place.method in elsewhere
    ]


def holes(table: Table, seen: Iterable[Seen]) -> list[str]:
    """Returns the commands of the runs that this table lacks.

    A table of runs of chosen settings has none: the rest is absent by intent. A run whose
    length no record tells is named in the tables of all lengths.
    """
    if table.view.where:
        return []
    here = _of_table(table, seen)
    if table.steps is not None:
        there = [s for s in here if s.state != "missing" and s.total_steps in (None, table.steps)]
        # Anew, from the runs of this length alone: another length may have a run that this lacks.
        here = [*there, *gaps.missing(there)]
    return [
        s.command
        for s in here
        if s.state not in NOTHING_LEFT and table.view.shows(s.place.task, s.place.method)
    ]
