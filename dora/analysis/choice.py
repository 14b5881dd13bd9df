"""Choosing the tasks and methods of a table by name: `--tasks rte,mrpc --methods lora,dora`."""

from __future__ import annotations

from collections.abc import Sequence

from dora.analysis.view import View
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.records.about_method import about_method
from dora.records.schema import Run


def named(
    tasks: Sequence[str], methods: Sequence[str], runs: Sequence[Run]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Reads the words of --tasks and --methods: returns the names of the tasks and of the methods.

    A word holds names or titles in any case, with commas between: `RTE,mrpc`. Tasks are in GLUE's
    order. Raises UserError with every name that no run has.
    """
    there = {run["config"]["task"] for run in runs}
    # Every record has its method's title, so one record a method is enough.
    one_each = {run["config"]["method"]["name"]: run for run in runs}
    options = (
        ("--tasks", tasks, {name: TASKS[name].folder for name in TASKS if name in there}),
        ("--methods", methods, {m: about_method(one_each[m]).title for m in sorted(one_each)}),
    )
    wrong, found = [], []
    for option, words, titles in options:
        known: dict[str, set[str]] = {}
        for name, title in titles.items():
            known.setdefault(title.lower(), set()).add(name)
        # A name means itself alone, though it may be another method's title, too.
        known |= {name.lower(): {name} for name in titles}
        # `rte, mrpc` is two words, the first with an empty part.
        parts = [part.strip().lower() for word in words for part in word.split(",")]
        asked = [part for part in parts if part] or parts
        names = ", ".join(titles)
        wrong += [
            f"{option} {part}: no finished run has it; there are {names}"
            for part in asked
            if part not in known
        ]
        chosen = {name for part in asked for name in known.get(part, ())}
        found.append(tuple(name for name in titles if name in chosen))
    if wrong:
        raise UserError(*wrong)
    return found[0], found[1]


def shows(view: View, task: str, method: str) -> bool:
    """Returns whether the view shows this task and method: it names them, or names none."""
    return task in (view.tasks or (task,)) and method in (view.methods or (method,))
