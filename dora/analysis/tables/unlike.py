"""Differences between the rows of a table beside their methods, as notes to stand under it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from dora.analysis.rows import budget_in_words
from dora.analysis.settings import in_words, settings
from dora.analysis.table import Table
from dora.data.tasks import TASKS
from dora.records.place import Row
from dora.records.schema import Run

# Settings that a comparison of methods should hold fixed, with the word for a null. Not here are
# rates, schedule and weight decay, which a method's paper chooses, and `eval_every`, which tables
# report as the number of evaluations.
FIXED = {
    "limit_train": "all",
    "batch_size": "",
    "batching": "",
    "total_steps": "",
    "patience": "none",
    "max_length": "",
    "select": "",
    "precision": "",
    "target": "",
    "head_dropout": "the model's",
    "clip": "",
    "decay_all": "",
    "init_from": "none",
    # The rounds follow from these and the steps. `fed.restart` is a schedule.
    "fed.clients": "",
    "fed.fraction": "",
    "fed.partition": "",
    "fed.alpha": "",
    "fed.local_steps": "",
}


def unlike(table: Table) -> list[str]:
    """Returns a note for each setting of FIXED in which the rows of a task differ.

    `RTE: limit_train differs: 64 (adalora), all (the rest)`; tasks with the same note share it.
    """
    tasks: dict[str, list[str]] = {}
    for task, key in product(table.tasks, FIXED):
        rows: dict[str, list[Row]] = {}
        for row in table.rows:
            for run in table.runs_of(row, task)[:1]:  # a cell is of one configuration
                if (value := _setting(run, key)) is not None:
                    rows.setdefault(value, []).append(row)
        if len(rows) > 1:
            text = f"{key} differs: {_by_row(rows, table)}"
            tasks.setdefault(text, []).append(TASKS[task].folder)
    return [f"{', '.join(names)}: {text}" for text, names in tasks.items()]


def _by_row(rows: Mapping[str, list[Row]], table: Table) -> str:
    """Returns each value with the rows that have it: `64 (adalora), all (the rest)`."""
    # The value that most rows have is the rest, so that the exceptions are named.
    *few, (rest, _) = sorted(rows.items(), key=lambda item: len(item[1]))
    named = [f"{value} ({_names(members, table)})" for value, members in few]
    return ", ".join([*named, f"{rest} (the rest)"])


def trained_on(table: Table) -> str:
    """Returns the devices and numbers of processes of the runs, row by row where they differ.

    Every start of a run counts: `cpu`, or `NVIDIA H200 in 4 processes (DoRA), cpu (the rest)`.
    """
    rows: dict[str, list[Row]] = {}
    for row in table.rows:
        begun = [start for run in table.runs_of(row) for start in run["starts"]]
        if places := sorted(set(map(_place, begun))):
            rows.setdefault(" and ".join(places), []).append(row)
    return _by_row(rows, table) if len(rows) > 1 else next(iter(rows))


def _place(start: Mapping[str, Any]) -> str:
    """Returns the device of a start, with the number of its processes if they are several."""
    device, processes = str(start["device"]), start["world_size"]
    return f"{device} in {processes} processes" if processes > 1 else device


def _setting(run: Run, key: str) -> str | None:
    """Returns a setting of FIXED in words, None where the run has no such setting."""
    known: dict[str, Any] = {
        **settings(run),
        "total_steps": run["total_steps"],
        "init_from": (run["fingerprints"]["init_from"] or "")[:8] or None,
    }
    value = known.get(key)
    # A method that adapts no matrices, as full fine-tuning, has no target that could differ.
    if key not in known or (key == "target" and value is None):
        return None
    # A 0 is a value of its own: a head without dropout is not one with the model's.
    return FIXED[key] if value is None else in_words(value)


def _names(rows: list[Row], table: Table) -> str:
    """Returns the rows' names: `dora`, or `dora 13,824` where not all rows of DoRA are meant."""
    methods = [method for method, _ in rows]
    whole = {m for m in methods if methods.count(m) == sum(method == m for method, _ in table.rows)}
    names = [
        table.title(row.method) + ("" if row.method in whole else f" {budget_in_words(row.budget)}")
        for row in rows
    ]
    return ", ".join(dict.fromkeys(names))


def sources(table: Table) -> list[str]:
    """Returns a note for each kind of source that differs between the runs of the table.

    The kinds are commits and arithmetics of this package, versions of torch, processors.
    """
    made, torch, processors = set(), set(), set()
    for run in table.runs:
        commits = [(start["git"] or {}).get("commit") for start in run["starts"]]
        made |= {commit[:7] if commit else "an installed package" for commit in commits}
        torch |= {run["versions"].get("torch")}
        # A GPU's results do not depend on the processor beside it.
        processors |= {start.get("processor") for start in run["starts"] if run["device"] == "cpu"}
    found = {
        "commits of this package": made,
        "versions of torch": torch - {None},
        "kinds of processors, whose last bits differ": processors - {None},
    }
    made_by = [
        f"made by {len(of)} {what}: {', '.join(sorted(of))}"
        for what, of in found.items()
        if len(of) > 1
    ]
    return [*made_by, *_arithmetics(table)]


def _arithmetics(table: Table) -> list[str]:
    """Returns a note of which cells were made by which arithmetic, where a table has several.

    `arithmetic 1 of this package made dora on CoLA; arithmetic 2 the rest: one configuration gives
    other bits under each`.
    """
    rows: dict[tuple[int, str], list[Row]] = {}
    # A cell may hold several, with --mix-arithmetic; it is then named for each.
    for task, row in product(table.tasks, table.rows):
        for number in {run["arithmetic"] for run in table.runs_of(row, task)}:
            rows.setdefault((number, task), []).append(row)
    made: dict[int, dict[str, list[str]]] = {}
    for (number, task), members in rows.items():
        made.setdefault(number, {}).setdefault(_names(members, table), []).append(
            TASKS[task].folder
        )
    if len(made) < 2:
        return []
    # The arithmetic of most cells is the rest, and goes without a list of them.
    rest = max(made, key=lambda number: sum(len(of) for (n, _), of in rows.items() if n == number))
    named = [
        f"arithmetic {number} of this package made "
        + "; ".join(f"{names} on {', '.join(tasks)}" for names, tasks in by_rows.items())
        for number, by_rows in sorted(made.items())
        if number != rest
    ]
    return [
        f"{'; '.join(named)}; arithmetic {rest} the rest: "
        "one configuration gives other bits under each"
    ]
