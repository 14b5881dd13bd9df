"""`python -m dora.tables`: finished runs as Markdown tables, from their run.json alone."""

from __future__ import annotations

import argparse
import json
import math
import signal
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dora.data.tasks import TASKS
from dora.stats import Estimate, average

Run = dict[str, Any]
Row = tuple[str, str]  # method, budget
METRICS = {"accuracy": "acc", "f1": "F1", "matthews_correlation": "Mcc", "pearson": "Pearson"}
# Its development set contradicts its training set, so the field leaves it out of averages.
APART = "wnli"
BASELINE = "lora"


@dataclass
class Table:
    """All runs on one data source and model. `cells`: row → task → its runs, one configuration each."""

    data: str
    model: str
    cells: dict[Row, dict[str, list[Run]]] = field(default_factory=dict)

    @property
    def rows(self) -> list[Row]:
        """Full fine-tuning, then budget by budget, LoRA first."""
        first = {"full": 0, BASELINE: 1}

        def place(row: Row) -> tuple[bool, int, str, int, str]:
            method, budget = row
            return method != "full", len(budget), budget, first.get(method, 2), method

        return sorted(self.cells, key=place)

    @property
    def tasks(self) -> list[str]:
        """The tasks in GLUE's order, WNLI last."""
        found = {task for row in self.cells.values() for task in row}
        return sorted((t for t in TASKS if t in found), key=lambda t: t == APART)

    @property
    def averaged(self) -> list[str]:
        """The tasks that the average is over."""
        return [t for t in self.tasks if t != APART]

    @property
    def runs(self) -> list[Run]:
        """Every run of the table."""
        return [run for row in self.cells for run in self.runs_of(row)]

    def runs_of(self, row: Row) -> list[Run]:
        """Every run of a row."""
        return [run for runs in self.cells[row].values() for run in runs]

    @property
    def seeds(self) -> set[int]:
        """The seeds that a whole table has in every cell."""
        return {run["seed"] for run in self.runs}


def read_runs(results: Path) -> list[Run]:
    """run.json of every finished run under `results`/runs, in path order; `folder` is added."""
    runs = []
    for path in sorted((results / "runs").glob("*/*/*/*/*/*/s*/run.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if run["status"] == "done":
            runs.append({**run, "folder": path.parent})
    return runs


def tables(runs: Iterable[Run]) -> list[Table]:
    """Runs by what tables tell apart. Raises ValueError where one cell holds two configurations."""
    found: dict[tuple[str, str], Table] = {}
    for run in runs:
        data, task, model, method, budget, _key, _seed = run["folder"].parts[-7:]
        table = found.setdefault((data, model), Table(data, model))
        table.cells.setdefault((method, budget), {}).setdefault(task, []).append(run)
    for table in found.values():
        for row, by_task in table.cells.items():
            for task, members in by_task.items():
                _one_configuration(f"{table.data}/{task}/{table.model}/{'/'.join(row)}", members)
    return list(found.values())


def _one_configuration(cell: str, runs: list[Run]) -> None:
    folders = sorted({str(run["folder"].parent) for run in runs})
    if len(folders) > 1:
        raise ValueError(
            f"{cell} holds {len(folders)} configurations: {', '.join(folders)}; a table compares one: move the "
            "others away"
        )


def values(runs: Iterable[Run], task: str, which: str) -> dict[int, float]:
    """The task's first metric by seed, in points; a run that lacks it is left out. `which`: best or last."""
    metric = TASKS[task].metrics[0]
    known = {run["seed"]: run["results"][which].get(metric) for run in runs}
    return {seed: 100 * value for seed, value in sorted(known.items()) if value is not None}


def row_average(table: Table, row: Row, which: str) -> Estimate | None:
    """The mean over tasks with its error; None unless every task has a value."""
    groups = [list(values(table.cells[row].get(t, []), t, which).values()) for t in table.averaged]
    return average(groups) if all(groups) else None


def scores(table: Table, which: str) -> str:
    """One row a method and budget, one column a task: mean ± standard deviation over seeds, in points.

    The average over tasks comes with its 95 % interval over seeds.
    """
    several = len(table.averaged) > 1
    heads = [f"{TASKS[t].folder} {METRICS[TASKS[t].metrics[0]]}" for t in table.averaged]
    apart = [f"{TASKS[t].folder} {METRICS[TASKS[t].metrics[0]]}" for t in table.tasks if t == APART]
    lines = [
        ["method", "budget", "adapter parameters", *heads, *(["average [95 %]"] if several else []), *apart]
    ]
    for row in table.rows:
        cells = {t: _score_cell(table, row, t, which) for t in table.tasks}
        middle = []
        if several:
            estimate = row_average(table, row, which)
            middle = ["–" if estimate is None else _with_interval(estimate)]
        lines.append([row[0], _budget(row), _parameters(table, row), *(cells[t] for t in table.averaged), *middle,
                      *(cells[t] for t in table.tasks if t == APART)])  # fmt: skip
    return _markdown(lines)


def _score_cell(table: Table, row: Row, task: str, which: str) -> str:
    runs = table.cells[row].get(task, [])
    known = list(values(runs, task, which).values())
    if not known:
        return "–"
    text = f"{statistics.mean(known):.1f}"
    if len(known) > 1:
        text += f" ± {statistics.stdev(known):.1f}"
    text += "*" if any(run["results"][which]["degenerate"] for run in runs) else ""
    text += "†" if any(map(_dirty, runs)) else ""
    return text if len(known) == len(table.seeds) else f"{text} (n = {len(known)}/{len(table.seeds)})"


def _with_interval(estimate: Estimate, sign: str = "") -> str:
    low, high = estimate.interval()
    text = f"{estimate.mean:{sign}.1f}"
    return text if math.isnan(low) else f"{text} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _budget(row: Row) -> str:
    return "–" if row[0] == "full" else f"{int(row[1]):,}" if row[1].isdigit() else row[1]


def _parameters(table: Table, row: Row) -> str:
    runs = table.runs_of(row)
    if row[0] == "full":
        return f"all {runs[0]['params']['trainable'] - runs[0]['params']['head']:,}"
    return _range([run["params"]["adapter_end"] for run in runs])


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def differences(table: Table, which: str) -> str | None:
    """Each adapter method against LoRA at the same budget, paired by task and seed; None without a pair.

    The last column is what these seeds could have shown at all: the true difference that the test would
    find in four of five such studies. One comparison at a time, none corrected for the others.
    """
    lines = [["method", "budget", f"average − {BASELINE} [95 %]", "shown with 80 % power", "seeds"]]
    for method, budget in table.rows:
        if method in ("full", BASELINE) or (BASELINE, budget) not in table.cells:
            continue
        ours, theirs = table.cells[method, budget], table.cells[BASELINE, budget]
        groups = []
        for task in table.averaged:
            a, b = values(ours.get(task, []), task, which), values(theirs.get(task, []), task, which)
            groups.append([a[s] - b[s] for s in a if s in b])
        if all(len(g) > 1 for g in groups):
            estimate = average(groups)
            lines.append([method, _budget((method, budget)), _with_interval(estimate, "+"),
                          f"{estimate.detectable():.1f}", _range([len(g) for g in groups])])  # fmt: skip
    return _markdown(lines) if len(lines) > 1 else None


def costs(table: Table) -> str:
    """Head parameters, training time and peak memory, which scores don't show."""
    lines = [["method", "budget", "runs", "head parameters", "training s a run", "peak memory MiB"]]
    for row in table.rows:
        runs = table.runs_of(row)
        lines.append([row[0], _budget(row), str(len(runs)), _range([run["params"]["head"] for run in runs]),
                      f"{statistics.mean(run['train_s'] for run in runs):.0f}",
                      f"{max(run['peak_memory_bytes'] for run in runs) / 2**20:,.0f}"])  # fmt: skip
    return _markdown(lines)


def notes(table: Table, which: str) -> list[str]:
    """What a reader must know of the scores: embedded model or data, a backbone's past, marks."""
    runs = table.runs
    found = sorted({text for run in runs for text in (run["embedded"], run["note"]) if text})
    counted = _range([run["evaluations"]["counted"] for run in runs])
    if which == "best":
        found.append(f"the best of {counted} development evaluations in the second half of a run")
        by_task = [
            {run["evaluations"]["counted"] for row in table.cells.values() for run in row.get(t, [])}
            for t in table.tasks
        ]
        if any(len(numbers) > 1 for numbers in by_task):
            found.append("runs of one task have unequal numbers of evaluations: compare with --score last")
    else:
        found.append("the last development evaluation of a run")
    if any(run["results"][which]["degenerate"] for run in runs):
        found.append("* at least one run predicts a single class or value")
    if any(map(_dirty, runs)):
        found.append("† at least one run was made with uncommitted changes")
    return found


def _dirty(run: Run) -> bool:
    """Whether any process that trained it ran sources with uncommitted changes."""
    return any((start["git"] or {}).get("dirty") for start in run.get("starts", [run]))


def _markdown(lines: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["| " + " | ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
    return "\n".join(text)


def report(table: Table, which: str) -> str:
    """The tables of one data source and model under a heading."""
    parts = [f"## {table.model}, data {table.data}, {which} evaluation", scores(table, which)]
    parts += ["\n".join(f"- {line}" for line in notes(table, which))]
    if (against := differences(table, which)) is not None:
        parts += [against]
    return "\n\n".join([*parts, costs(table)])


def main() -> None:
    """Prints the tables; exit 1 where there is nothing to show or a cell is ambiguous."""
    parser = argparse.ArgumentParser(prog="python -m dora.tables", description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="the results folder (default: results)"
    )
    parser.add_argument(
        "--score", choices=["best", "last"], default="best",
        help="best development evaluation of the second half (default), or the last one",
    )  # fmt: skip
    given = parser.parse_args()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends us quietly
    try:
        found = tables(read_runs(given.results))
    except ValueError as e:
        sys.exit(str(e))
    if not found:
        sys.exit(
            f"no finished run under {given.results / 'runs'}; make one with: python -m dora.run task=sst2"
        )
    print("\n\n".join(report(table, given.score) for table in found))


if __name__ == "__main__":
    main()
