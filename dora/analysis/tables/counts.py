"""Two tables beside the scores: adapter parameters by four counts, and federated runs' rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from dora.analysis.names import size_range
from dora.analysis.rows import budget_in_words, budget_starts
from dora.analysis.table import Table
from dora.analysis.tables.layout import Grid
from dora.analysis.tables.scores import caption
from dora.plain import number_range
from dora.records.about_method import adapter_parameters
from dora.records.schema import Run

_TRAINED_NOTE = (
    "counted: what the budget limits. Trained at once: the most adapter parameters that one step "
    "trains. Trained in all: distinct ones over the whole run. In PEFT's file: where blocks are "
    "filled up, or start values kept"
)

_FEDERATED_NOTE = (
    "federated runs: rows from the smallest to the largest client over all seeds; clients of one "
    "class: a run's mean number; steps in a row: those that follow each other where the clients of a "
    "round train at once; MB: sent to and from the server in 32 bits, head included"
)
_EXAMPLES = "examples"  # the head of a column that older records have no number for


def trained(table: Table) -> Grid | None:
    """Returns counted, trained and exported parameters; nothing where all runs have them equal."""
    counted = {
        row: [run for run in table.runs_of(row) if "in_peft_file" in run["params"]]
        for row in table.rows
    }
    shown = [row for row in table.rows if counted[row]]
    rows, apart = [], False
    for row in shown:
        counts = [_counts(run, table.view.score) for run in counted[row]]
        apart = apart or any(len(set(each) - {None}) > 1 for each in counts)
        columns = [[n for n in column if n is not None] for column in zip(*counts, strict=True)]
        cells = [size_range(column) if column else "–" for column in columns]
        rows.append([table.title(row.method), budget_in_words(row.budget), *cells])
    if not apart:
        return None
    head = [
        "method",
        "budget",
        "counted",
        "trained at once",
        "trained in all",
        "in PEFT's file",
    ]
    text = f"{caption(table)}: adapter parameters"
    note = _TRAINED_NOTE
    if table.view.score == "last":
        note += ". The file holds the best weights; counted are the last ones"
    return Grid(text, head, rows, rules=budget_starts(shown), name="trained", notes=[note])


def _counts(run: Run, score: str) -> list[int | None]:
    """Returns a run's four counts; the last is None for a method that leaves no file for PEFT."""
    params = run["params"]
    return [
        adapter_parameters(run, score),
        params["trained_at_once"],
        params["trained_in_all"],
        params["in_peft_file"],
    ]


def federated(table: Table) -> Grid | None:
    """Returns clients, rounds, depth and communication of federated runs, if there are any."""
    lines: list[dict[str, str]] = []
    for row in table.rows:
        for task in table.tasks:
            runs = [run for run in table.runs_of(row, task) if "federation" in run]
            if runs:
                named = {
                    "method": table.title(row.method),
                    "budget": budget_in_words(row.budget),
                    "task": table.view.title(task),
                }
                lines.append({**named, **_rounds(runs)})
    if not lines:
        return None
    note = _FEDERATED_NOTE
    if all(line[_EXAMPLES] == "–" for line in lines):  # the records are older than this number
        for line in lines:
            del line[_EXAMPLES]
    else:
        note += "; examples: the rows of all of a run's steps, a row as often as it is trained on"
    text = f"{caption(table)}: clients and communication"
    cells = [list(line.values()) for line in lines]
    return Grid(text, list(lines[0]), cells, text_columns=3, name="federated", notes=[note])


def _rounds(runs: Iterable[Run]) -> dict[str, str]:
    """Returns the cells of a method's runs on one task, by their heads."""
    found = [run["federation"] for run in runs]
    clients = [client for f in found for client in f["clients"]]
    examples = [f["examples"] for f in found if "examples" in f]
    alone = sum(sum(n > 0 for n in client["classes"].values()) == 1 for client in clients)
    selected = number_range([f["selected"] for f in found])
    number = number_range([len(f["clients"]) for f in found])
    return {
        "clients in a round": f"{selected} of {number}",
        "rows of a client": number_range([client["rows"] for client in clients]),
        "clients of one class": f"{alone / len(found):.1f}",
        "rounds": number_range([f["rounds"] for f in found]),
        "steps of a client in a round": number_range([f["local_steps"] for f in found]),
        "steps in a row": number_range([f["sequential_steps"] for f in found]),
        _EXAMPLES: number_range(examples) if examples else "–",
        "MB in all": f"{statistics.mean(f['bytes_in_all'] for f in found) / 1e6:,.1f}",
    }
