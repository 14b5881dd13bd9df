"""The table of settings: what every run of a study was given, as papers' appendices print it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from dora.analysis.rows import budget_in_words, has_budget
from dora.analysis.settings import in_words, settings
from dora.analysis.table import Table
from dora.analysis.tables.layout import Grid
from dora.analysis.tables.scores import caption
from dora.data.tasks import TASKS
from dora.plain import with_commas
from dora.records.identity import NOT_IDENTITY
from dora.records.place import Row

# Settings that have no line: the caption or another column says them, they change a run's last bits
# alone, or they are folders, whose tasks the notes on scores name.
_ELSEWHERE = frozenset(
    {*NOT_IDENTITY, "task", "model", "data", "budget", "method.name", "arithmetic"}
    | {"threads", "init_from", "method.runs"}
)

_RATES = ("lr", "head_lr")  # searched and read task by task, also where they happen to be equal
# The meaning of null in settings where it is not "off".
_NULL = {"head_dropout": "the model's", "eval_every": "each epoch", "limit_train": "all rows"}

# The settings of the runs in each cell by dotted key, without those that are off.
Cells = dict[tuple[Row, str], dict[str, Any]]


def run_settings(table: Table) -> Grid:
    """Returns the settings of all runs, each said once and as widely as it holds.

    One that is the same in every run, or in every run of a method, stands in the notes; one that
    the task decides has a line for all methods. The learning rate, and whatever else differs from
    task to task of one method, as a setting that a search chose, has a line for each method.
    """
    cells = {
        (row, task): _given(settings(runs[0]))  # a cell is of one configuration
        for row, task in product(table.rows, table.tasks)
        if (runs := table.runs_of(row, task))
    }
    keys = list(dict.fromkeys([*_RATES, *(key for its in cells.values() for key in its)]))
    scope = {key: _scope(key, cells) for key in keys}
    lines = [*_of_tasks(table, cells, [key for key in keys if scope[key] == "task"])]
    rules = set()
    blocks = [[row for row in block if table.runs_of(row)] for block in table.blocks]
    for block in filter(None, blocks):
        rules |= {len(lines)} if lines else set()
        for row in block:
            lines += _of_row(table, row, cells, [key for key in keys if scope[key] == "cell"])
    return Grid(
        f"{caption(table)}: settings",
        ["method", "budget", "setting", *(TASKS[task].folder for task in table.tasks)],
        lines,
        text_columns=3,
        rules=rules,
        notes=list(_notes(table, cells, scope)),
        name="settings",
    )


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that a table names; `head_lr` only where it is another rate than `lr`."""
    words = {key: _NULL.get(key) if value is None else value for key, value in config.items()}
    found = {
        key: value
        for key, value in words.items()
        if key not in _ELSEWHERE and value is not None and value is not False
    }
    if found.get("head_lr") == found["lr"]:
        del found["head_lr"]
    return found


def _scope(key: str, cells: Cells) -> str:
    """Returns what decides a setting: nothing ("all"), the "task", the "row", or the "cell".

    It is "some" where some methods lack the setting and all others have one value of it: methods
    that adapt no matrices have no target, and those without clients no settings of clients.
    """
    if key in _RATES:
        return "cell"
    values = {place: in_words(its.get(key)) for place, its in cells.items()}
    # A method's own setting is no other method's, even where both have one of its name.
    if not key.startswith("method."):
        if len(set(values.values())) == 1:
            return "all"
        having = {in_words(its[key]) for its in cells.values() if key in its}
        if (key == "target" or key.startswith("fed.")) and len(having) == 1:
            return "some"
        if _decides(1, values):
            return "task"
    return "row" if _decides(0, values) else "cell"


def _decides(part: int, values: Mapping[tuple[Row, str], str]) -> bool:
    """Returns whether the row (part 0) or the task (part 1) of a cell decides its value."""
    pairs = {(place[part], value) for place, value in values.items()}
    return len(pairs) == len({place[part] for place in values})


def _of_tasks(table: Table, cells: Cells, keys: Iterable[str]) -> Iterator[list[str]]:
    """Yields a line for each setting that the task decides."""
    for key in keys:
        known = {task: its[key] for (_, task), its in cells.items() if key in its}
        yield ["every method", "–", key, *(_value(key, known.get(task)) for task in table.tasks)]


def _of_row(table: Table, row: Row, cells: Cells, keys: Iterable[str]) -> Iterator[list[str]]:
    """Yields a line for each setting that differs from cell to cell and that the row has."""
    its = [cells.get((row, task), {}) for task in table.tasks]
    for key in keys:
        if any(key in each for each in its):
            values = [_value(key, each.get(key)) for each in its]
            yield [table.title(row.method), budget_in_words(row.budget), _name(key), *values]


def _value(key: str, value: Any) -> str:
    """Returns a setting as a paper prints it: `2e-3` for a rate, a dash where there is none."""
    if value is None:
        return "–"
    if value is True:
        return "on"
    if key in _RATES:
        digits, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}"
    if isinstance(value, float):
        short = f"{value:g}"
        # Two values that differ are printed so.
        return short if float(short) == value else repr(value)
    return str(with_commas(value))


def _notes(table: Table, cells: Cells, scope: Mapping[str, str]) -> Iterator[str]:
    """Yields the notes: settings of all runs, then those of each method."""
    apart = any("head_lr" in its for its in cells.values())
    head = "; head_lr: the head's, where it is another" if apart else ", of the head too"
    yield f"lr: the peak learning rate{head}; settings that are off are left out"
    together = {key: value for its in cells.values() for key, value in its.items()}
    yield f"every run: {_named(together, [key for key in scope if scope[key] == 'all'])}"
    having: dict[str, list[str]] = {}
    for key in (key for key in scope if scope[key] == "some"):
        having.setdefault(_having(table, key, cells), []).append(key)
    for which, keys in having.items():
        yield f"{which}: {_named(together, keys)}"
    said: dict[tuple[str, str], list[Row]] = {}
    for row in table.rows:
        its = next((its for (of, _), its in cells.items() if of == row), {})
        if named := _named(its, [key for key in scope if scope[key] == "row"]):
            said.setdefault((row.method, named), []).append(row)
    methods = [method for method, _ in said]
    for (method, named), rows in said.items():
        # The budget only where a method has other settings at another one.
        several = methods.count(method) > 1 and has_budget(rows[0])
        which = f" {' and '.join(budget_in_words(row.budget) for row in rows)}" if several else ""
        yield f"{table.title(method)}{which}: {named}"


def _having(table: Table, key: str, cells: Cells) -> str:
    """Returns the titles of the methods that have a setting, or of the fewer ones without it."""
    there = {method: False for (method, _), _ in cells}
    for (row, _), its in cells.items():
        there[row.method] |= key in its
    having, lacking = ([m for m in there if there[m] is held] for held in (True, False))
    fewer = len(lacking) < len(having)
    return ("all but " if fewer else "") + ", ".join(map(table.title, lacking if fewer else having))


def _named(its: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Returns `batch_size 32, warmup 0.06` for the keys that a run has."""
    return ", ".join(f"{_name(key)} {_value(key, its[key])}" for key in keys if key in its)


def _name(key: str) -> str:
    """Returns a key without its group, unless that would make one of the suite's rates of it."""
    name = key.removeprefix("method.")
    return key if name in _RATES and name != key else name
