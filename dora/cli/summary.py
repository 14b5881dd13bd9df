"""What a sweep calls its runs, and the small table of their scores at its end."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from dora.analysis.grouping import View, budget_in_words
from dora.data.tasks import TASKS
from dora.records.study import Seen

Words = tuple[str, ...]
Place = tuple[
    str, ...
]  # a run's place under results/runs: data, task, model, method, budget, key, seed

LABEL_WIDTH = 24  # what varies and is longer stands in the table alone


def labels(runs: Mapping[Words, Place], pending: Sequence[Words]) -> list[str]:
    """`[3/12 rte lora s2]` for each of the `pending` runs: its number among them, task, method and seed.

    The budget, and whatever else differs between `runs`, follow where they differ.
    """
    others = differing(list(runs))
    budgets = len({place[4] for place in runs.values()} - {"none"}) > 1
    found = []
    for number, words in enumerate(pending, 1):
        _, task, _, method, budget, _, seed = runs[words]
        parts = [task, method, seed]
        parts += [budget_in_words((method, budget))] if budgets and budget != "none" else []
        parts += [text for text in others[words] if len(text) <= LABEL_WIDTH]
        found.append(f"[{number}/{len(pending)} {' '.join(parts)}]")
    return found


def differing(runs: Sequence[Words]) -> dict[Words, list[str]]:
    """What was typed for each run that was not typed for all, apart from task, method, budget and seed.

    A choice is its name alone (`roberta_base`), a setting goes by the last part of its key (`lr=1e-3`).
    """
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
    """The key and value of `key=value`; of an experiment that is one task's own (`lora/sst2`) without the task."""
    key, value = word.split("=", 1)
    family, _, task = value.rpartition("/")
    return key, family if key == "experiment" and task in TASKS else value


def _short(key: str, value: str) -> str:
    return value if key in ("model", "data", "experiment") else f"{key.rpartition('.')[2]}={value}"


def score_table(seen: Mapping[Words, Seen]) -> list[str]:
    """Lines of method and budget by task: the mean over seeds of the best scores in points, and of how many runs.

    A cell is marked with * where one of its runs predicts a single class or value. Empty where no run has a score.
    """
    others, view = differing(list(seen)), View()
    cells: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    marked = set()
    for words, s in seen.items():
        _, task, _, method, budget, _, _ = s.place
        value = view.value({"results": {"best": s.score or {}}}, task)
        if value is not None:
            row = method, budget_in_words((method, budget)), " ".join(others[words])
            cells[row][task].append(value)
            marked |= {(row, task)} if s.degenerate else set()
    tasks = [task for task in TASKS if any(task in row for row in cells.values())]
    lines = [["method", "budget", "", *map(view.title, tasks)]]
    for named, scores in cells.items():
        lines.append([*named, *(_mean(scores.get(t, []), (named, t) in marked) for t in tasks)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = [i for i, width in enumerate(widths) if width]
    table = ["  ".join(line[i].ljust(widths[i]) for i in shown).rstrip() for line in lines]
    notes = ["* at least one run predicts a single class or value"] if marked else []
    return [*table, *notes] if tasks else []


def _mean(scores: Sequence[float], marked: bool) -> str:
    return (
        f"{math.fsum(scores) / len(scores):.2f}{'*' if marked else ''} ({len(scores)})"
        if scores
        else "–"
    )
