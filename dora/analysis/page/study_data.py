"""The runs of a study as data for the page: names, numbers, curves, ranks and whole records.

A thousand records repeat each other. Whatever repeats stands once in a list (`Pool`), and runs give
its place there, which makes the data a tenth as large.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from dora.analysis.figures.style import styles
from dora.analysis.names import model_title
from dora.analysis.page.contrast import on_dark, on_light
from dora.analysis.rows import budget_in_words, budget_order
from dora.analysis.run_journals import curve, places, rank_path
from dora.analysis.stats import ROUNDING, t_quantile
from dora.analysis.table import Table
from dora.backbones.architectures import KINDS
from dora.data.tasks import TASKS
from dora.plain import printable
from dora.records.about_method import adapter_parameters, ranks_of, trains_all
from dora.records.about_starts import dirty
from dora.records.place import place_of
from dora.records.schema import Run
from dora.records.words import command_of

# Keys of run.json that a click shows; the rest is in the tables or in the file.
_SHOWN = (
    "words",
    "command",
    "config",
    "arithmetic",
    "results",
    "params",
    "plan",
    "evaluations",
    "data",
    "model",
    "fingerprints",
    "starts",
    "versions",
    "host",
    "platform",
    "times",
    "train_s",
    "peak_memory_bytes",
)
_MOST_POINTS = 60  # of a curve: more are not seen in a small panel
# Decimals of a score in points: 57, not 56.99999999999999. They must be finer than ROUNDING, so that
# scores with equal differences keep them.
_DECIMALS = 12


class Pool:
    """Keeps each of several values once, and tells its place in the list of them."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        """Returns the value's place in `values`; a new value is appended."""
        # As JSON: lists have no hash, and 1, 1.0 and true would be one key.
        key = json.dumps(value)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


def study_data(found: Sequence[Table]) -> dict[str, Any]:
    """Returns everything that the page's script reads, as values of JSON.

    `groups`: the tables, within which runs are compared. `runs`: an object a run, as `ordered` has
    them. `fields`: paths into records; a run's `record` holds for each the place of its value in
    the list of `pools` with that number, or null. `quantiles`: as that function returns them.
    `rounding`: scores that differ by no more are equal. `steps` and `matrices`: shared by curves and
    ranks, which begin with a place in them.
    """
    paths: dict[tuple[str, ...], Pool] = {}
    steps, matrices = Pool(), Pool()
    runs = []
    for table, run in ordered(found):
        kept = {key: run[key] for key in _SHOWN if key in run}
        values = {path: paths.setdefault(path, Pool()).place(v) for path, v in leaves(kept)}
        runs.append(
            {
                **about(table, run),
                "group": found.index(table),
                "curves": {name: _pooled(points, steps) for name, points in _curves(run).items()},
                "ranks": _ranks(run, table.view.score, matrices),
                "record": values,
            }
        )
    # Only now all paths are known.
    for line in runs:
        line["record"] = [line["record"].get(path) for path in paths]
    return {
        "groups": [_group(table) for table in found],
        "baseline": found[0].view.baseline,
        "quantiles": quantiles(),
        "rounding": ROUNDING,
        "looks": looks(found),
        "kinds": KINDS,
        "fields": list(paths),
        "pools": [pool.values for pool in paths.values()],
        "steps": steps.values,
        "matrices": matrices.values,
        "runs": runs,
    }


def ordered(found: Sequence[Table]) -> list[tuple[Table, Run]]:
    """Returns the runs of all tables by task, model, method, budget and seed.

    Where they come from plays no part: packed runs stand among those of directories.
    """
    tasks = list(TASKS)

    def order(pair: tuple[Table, Run]) -> tuple[Any, ...]:
        run = pair[1]
        at = place_of(run["folder"])
        row = at.model, at.method, budget_order(at.budget)
        return tasks.index(at.task), *row, run["seed"], at.data, at.key

    return sorted(((table, run) for table in found for run in table.runs), key=order)


def about(table: Table, run: Run) -> dict[str, Any]:
    """Returns a run's line in the table of runs: names as commands take them, titles, numbers."""
    at = place_of(run["folder"])
    score = table.view.value(run, at.task)
    return {
        "data": at.data,
        "task": at.task,
        "taskTitle": TASKS[at.task].folder,
        "model": at.model,
        "modelTitle": model_title(at.model),
        "method": at.method,
        "methodTitle": printable(table.title(at.method)),
        "budget": at.budget,
        "budgetTitle": budget_in_words(at.row.budget),
        # By kind, then size: a thousand ranks are still less than one number of parameters.
        "budgetOrder": budget_order(at.budget)[:2],
        "key": at.key,
        "seed": run["seed"],
        "score": None if score is None else round(score, _DECIMALS),
        "metric": table.view.title(at.task),
        "step": run["results"][table.view.score]["step"],
        "params": adapter_parameters(run, table.view.score),
        "all": trains_all(run),
        "seconds": round(run["train_s"], 2),
        "commit": printable(((run["git"] or {}).get("commit") or "")[:7]),
        "dirty": dirty(run),
        "degenerate": bool(run["results"][table.view.score]["degenerate"]),
        "typed": _typed(run),
    }


def _typed(run: Run) -> str:
    """Returns the run's command for a shell."""
    # Quoted and checked: a reader may paste it, and the record may be somebody else's.
    unknown = f"# {printable('/'.join(place_of(run['folder'])))}: no command is known"
    return command_of(run.get("words"), run["folder"], unknown)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields (path, value) of everything in nested objects that is no object itself.

    Texts have escapes for all that does not print. A list, and an empty object, is one value.
    """
    if isinstance(value, dict) and value:
        for key, held in value.items():
            yield from leaves(held, (*path, printable(key)))
    else:
        yield path, _printable(value)


def _printable(value: Any) -> Any:
    """Returns a value of JSON with escapes in all of its texts."""
    if isinstance(value, str):
        return value if value.isprintable() else printable(value)
    if isinstance(value, list):
        return [_printable(held) for held in value]
    if isinstance(value, dict):
        return {printable(key): _printable(held) for key, held in value.items()}
    return value


def _curves(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Returns a run's curves as (step, value): `score` in points, `loss`, `live` components."""
    metric = TASKS[run["config"]["task"]].metrics[0]
    found: dict[str, list[tuple[int, float]]] = {
        "score": [(step, 100 * score) for step, score in curve(run, "dev", metric)],
        "loss": list(curve(run, "train", "loss")),
        "live": [(step, sum(ranks.values())) for step, ranks in rank_path(run)],
    }
    return {name: thinned(points) for name, points in found.items() if points}


def thinned(curve: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Returns at most `_MOST_POINTS` points of a curve, evenly chosen, its last one among them."""
    every = -(-len(curve) // _MOST_POINTS)
    return curve[::-1][::every][::-1]


def _pooled(curve: list[tuple[int, float]], steps: Pool) -> list[Any]:
    """Returns [place of its steps in the pool, its values]."""
    return [steps.place([step for step, _ in curve]), [_short(v) for _, v in curve]]


def _short(value: float) -> float | int:
    """Returns a fraction in four digits, which are more than a panel shows."""
    if isinstance(value, int):
        return value
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() else short


def _ranks(run: Run, score: str, matrices: Pool) -> list[Any] | None:
    """Returns [place of (layer, kind) of the matrices, ranks at the start, at the end].

    Returns None if the method has no ranks, or has them elsewhere than in the backbone's linears.
    """
    start, end, found = run["ranks"]["start"], ranks_of(run, score), places(run)
    if not found:
        return None
    return [
        matrices.place(list(found.values())),
        [start[name] for name in found],
        [end[name] for name in found],
    ]


def quantiles() -> list[float]:
    """Returns t quantiles of two-sided 95 % intervals, for 1 / df of 0, 0.01, ..., 1.

    The page interpolates between them: its intervals follow the filter, and the degrees of freedom
    of an average over tasks are not whole.
    """
    return [t_quantile(0.975, 100 / i if i else math.inf) for i in range(101)]


def title_of(table: Table) -> str:
    """Returns the words that tell a table from others: `RoBERTa-base, GLUE (official files)`."""
    length = "" if table.steps is None else f", {table.steps:,} steps"
    return printable(f"{model_title(table.model)}, {table.data_title}{length}")


def _group(table: Table) -> dict[str, Any]:
    """Returns what the script must know of a table beside its runs."""
    return {
        "title": title_of(table),
        "data": table.data,
        "model": table.model,
        "averaged": table.averaged,
        "comparable": table.comparable,
        "score": table.view.score,
    }


def looks(found: Sequence[Table]) -> dict[str, dict[str, Any]]:
    """Returns each method's marker, and its colour for light and for dark pages."""
    methods = {row.method for table in found for row in table.rows}
    return {
        method: {
            "marker": look["marker"],
            "hollow": "markerfacecolor" in look,
            "light": on_light(look["color"]),
            "dark": on_dark(look["color"]),
        }
        for method, look in sorted(styles(methods).items())
    }
