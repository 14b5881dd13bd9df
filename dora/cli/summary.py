"""Names the runs of a sweep in its lines, and makes the table of scores at its end."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from dora.analysis.rows import budget_in_words
from dora.analysis.tables.layout import Grid, plain
from dora.analysis.tables.notes import MARKS
from dora.analysis.view import View
from dora.data.tasks import TASKS
from dora.records.about_method import NO_BUDGET
from dora.records.place import Place
from dora.records.study import Seen

Words = tuple[str, ...]

# Characters of a setting in a label; a longer one, such as a path, stands in the table alone.
LABEL_WIDTH = 24


def labels(runs: Mapping[Words, Place], pending: Sequence[Words]) -> list[str]:
    """Returns a label such as `[3/12 rte lora s2]` for each of the `pending` runs.

    It has the run's number among them, its task, method and seed, then the budget and other
    settings if they differ between `runs`.
    """
    others = differing(list(runs))
    # A method without a budget has NO_BUDGET in its place, whatever the others have.
    budgets = len({place.budget for place in runs.values()} - {NO_BUDGET}) > 1
    # Seeds follow each other in a grid, so the number says more than a name how far a sweep is.
    found = []
    for number, words in enumerate(pending, 1):
        _, task, _, method, budget, _, seed = runs[words]
        parts = [task, method, seed]
        parts += [budget_in_words(budget)] if budgets and budget != NO_BUDGET else []
        parts += [text for text in others[words] if len(text) <= LABEL_WIDTH]
        found.append(f"[{number}/{len(pending)} {' '.join(parts)}]")
    return found


def differing(runs: Sequence[Words]) -> dict[Words, list[str]]:
    """Returns the settings of each run that were not typed alike for all runs.

    Leaves out task, method, budget and seed. A choice is its name alone (`roberta_base`), a
    setting has the last part of its key (`lr=1e-3`).
    """
    # Words alone are compared, not configurations: an experiment's name says more than its keys.
    typed = {words: dict(_typed(word) for word in words if "=" in word) for words in runs}
    keys = dict.fromkeys(key for values in typed.values() for key in values)
    named = {"task", "method", "budget", "seed"}
    keys_that_differ = [
        key
        for key in keys
        if key not in named and len({values.get(key) for values in typed.values()}) > 1
    ]
    return {
        words: [_short(key, values[key]) for key in keys_that_differ if key in values]
        for words, values in typed.items()
    }


def _typed(word: str) -> tuple[str, str]:
    """Splits `key=value`, and cuts the task off an experiment for one task (`lora/sst2`).

    Otherwise each task of a sweep would have another experiment, and an own row in the table.
    """
    key, value = word.split("=", 1)
    family, _, task = value.rpartition("/")
    return key, family if key == "experiment" and task in TASKS else value


def _short(key: str, value: str) -> str:
    return value if key in ("model", "data", "experiment") else f"{key.rpartition('.')[2]}={value}"


def score_table(seen: Mapping[Words, Seen]) -> list[str]:
    """Returns the lines of a table: a row for each method and budget, a column for each task.

    A cell is the mean over seeds of the best scores in points, and the number of runs. A * marks
    it if one of these runs predicts a single class or value. No lines if no run has a score.
    """
    others, view = differing(list(seen)), View()
    cells: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    marked = set()
    for words, s in seen.items():
        task, method, budget = s.place.task, s.place.method, s.place.budget
        value = view.value_of({**(s.score or {}), "degenerate": s.degenerate}, task)
        if value is not None:
            row = method, budget, " ".join(others[words])
            cells[row][task].append(value)
            marked |= {(row, task)} if s.degenerate else set()
    tasks = [task for task in TASKS if any(task in row for row in cells.values())]
    # The third column holds other settings that differ; it has no title, and is cut if empty.
    lines = [["method", "budget", "", *map(view.title, tasks)]]
    for row, scores in cells.items():
        method, budget, more = row
        means = (_mean(scores.get(t, []), (row, t) in marked) for t in tasks)
        lines.append([method, budget_in_words(budget), more, *means])
    if not any(line[2] for line in lines):
        lines = [[*line[:2], *line[3:]] for line in lines]
    table = plain(Grid("", lines[0], lines[1:])).splitlines()
    notes = [MARKS["*"]] if marked else []
    return [*table, *notes] if tasks else []


def _mean(scores: Sequence[float], marked: bool) -> str:
    if not scores:
        return "–"
    # `fsum` rounds once, so that the mean does not depend on the order of the runs.
    mean = math.fsum(scores) / len(scores)
    return f"{mean:.2f}{'*' if marked else ''} ({len(scores)})"
