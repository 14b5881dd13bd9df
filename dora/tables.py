"""`python -m dora.tables`: finished runs as one Markdown table, from their run.json alone."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from dora.data.tasks import TASKS

Cell = tuple[str, str, str, str, str]  # data, task, model, method, budget


def read_runs(results: Path) -> list[dict[str, Any]]:
    """run.json of every finished run under `results`/runs, in path order; `folder` is added."""
    runs = []
    for path in sorted((results / "runs").glob("*/*/*/*/*/*/s*/run.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if run["status"] == "done":
            runs.append({**run, "folder": path.parent})
    return runs


def cells(runs: list[dict[str, Any]]) -> dict[Cell, list[dict[str, Any]]]:
    """Runs by what a table tells apart. Raises ValueError where one cell holds two configurations."""
    grouped: dict[Cell, list[dict[str, Any]]] = {}
    for run in runs:
        *cell, _key, _seed = run["folder"].parts[-7:]
        grouped.setdefault(tuple(cell), []).append(run)
    for cell, members in grouped.items():
        configurations = {run["folder"].parent for run in members}
        if len(configurations) > 1:
            raise ValueError(
                f"{'/'.join(cell)} holds {len(configurations)} configurations: "
                f"{', '.join(str(c) for c in sorted(configurations))}; a table compares one: move the others away"
            )
    return grouped


def table(grouped: dict[Cell, list[dict[str, Any]]]) -> str:
    """One row a cell: seeds, adapter parameters, the score of the best and the last evaluation, seconds.

    Scores are the task's first metric in points, mean ± standard deviation over seeds.
    """
    rows = [("data", "task", "model", "method", "budget", "seeds", "adapter parameters", "head", "metric",
             "best (2nd half)", "last", "training s")]  # fmt: skip
    for cell, runs in sorted(grouped.items()):
        metric = TASKS[cell[1]].metrics[0]
        params = sorted({run["params"]["adapter_end"] for run in runs})
        count = f"{params[0]:,}" if len(params) == 1 else f"{params[0]:,} to {params[-1]:,}"
        if cell[3] == "full":
            count = f"all {runs[0]['params']['trainable'] - runs[0]['params']['head']:,}"
        marks = "*" if any(run["results"]["best"]["degenerate"] for run in runs) else ""
        marks += "†" if any((run["git"] or {}).get("dirty") for run in runs) else ""
        seconds = statistics.mean(run["train_s"] for run in runs)
        rows.append((*cell, str(len(runs)), count, f"{runs[0]['params']['head']:,}", metric,
                     _mean([run["results"]["best"].get(metric) for run in runs]) + marks,
                     _mean([run["results"]["last"].get(metric) for run in runs]), f"{seconds:.0f}"))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
    return "\n".join(lines)


def _mean(values: list[float | None]) -> str:
    known = [100 * v for v in values if v is not None]
    if not known:
        return "–"
    text = f"{statistics.mean(known):.1f}"
    if len(known) > 1:
        text += f" ± {statistics.stdev(known):.1f}"
    return text if len(known) == len(values) else f"{text} (n = {len(known)}/{len(values)})"


def notes(grouped: dict[Cell, list[dict[str, Any]]]) -> list[str]:
    """What a reader must know of the scores: embedded model or data, a backbone's past, marks."""
    runs = [run for members in grouped.values() for run in members]
    found = sorted({text for run in runs for text in (run["embedded"], run["note"]) if text})
    counted = {run["evaluations"]["counted"] for run in runs}
    number = " to ".join(str(n) for n in sorted({min(counted), max(counted)}))
    found.append(f"best: the best of {number} development evaluations in the second half of a run")
    if any(run["results"]["best"]["degenerate"] for run in runs):
        found.append("* at least one run predicts a single class")
    if any((run["git"] or {}).get("dirty") for run in runs):
        found.append("† at least one run was made with uncommitted changes")
    return found


def main() -> None:
    """Prints the table; exit 1 where there is nothing to show or a cell is ambiguous."""
    parser = argparse.ArgumentParser(prog="python -m dora.tables", description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="the results folder (default: results)"
    )
    results = parser.parse_args().results
    try:
        grouped = cells(read_runs(results))
    except ValueError as e:
        sys.exit(str(e))
    if not grouped:
        sys.exit(f"no finished run under {results / 'runs'}; make one with: python -m dora.run task=sst2")
    print(table(grouped))
    print("\n" + "\n".join(f"- {line}" for line in notes(grouped)))


if __name__ == "__main__":
    main()
