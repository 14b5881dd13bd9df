"""Choosing the tasks and methods of a table by name: `--tasks rte,mrpc --methods lora,dora`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dora.analysis.view import View
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.records.about_method import about_method
from dora.records.schema import Run


def task_names(words: Sequence[str], runs: Iterable[Run]) -> tuple[str, ...]:
    """Returns the tasks that `words` name, in GLUE's order: `RTE,mrpc` is mrpc and rte.

    Raises UserError for a name that no run's task has.
    """
    there = {run["config"]["task"] for run in runs}
    titles = {name: TASKS[name].folder for name in TASKS if name in there}
    return _named("--tasks", words, titles)


def method_names(words: Sequence[str], runs: Iterable[Run]) -> tuple[str, ...]:
    """Returns the methods that `words` name, by name or title in any case, sorted by name.

    Raises UserError for a name that no run's method has.
    """
    titles = {run["config"]["method"]["name"]: about_method(run).title for run in runs}
    return _named("--methods", words, dict(sorted(titles.items())))


def _named(option: str, words: Sequence[str], titles: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the names that words with commas hold, in the order of `titles`: name → title."""
    known = {text.lower(): name for name, title in titles.items() for text in (title, name)}
    asked = [part.strip() for word in words for part in word.split(",")]
    if wrong := [part for part in asked if part.lower() not in known]:
        there = ", ".join(titles)
        raise UserError(
            *(f"{option} {part}: no finished run has it; there are {there}" for part in wrong)
        )
    chosen = {known[part.lower()] for part in asked}
    return tuple(name for name in titles if name in chosen)


def shows(view: View, task: str, method: str) -> bool:
    """Returns whether the view shows this task and method: it names them, or names none."""
    return task in (view.tasks or (task,)) and method in (view.methods or (method,))
