"""`python -m dora.tables`: finished runs as tables for a paper, from their run.json alone.

For each data source and model, under results/tables: Markdown (also printed), LaTeX (a file a table) and CSV.
A cell that holds several configurations, such as a search of rates, is left out and named; --where chooses one.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dora.analysis.comparison import Difference, differences
from dora.analysis.contents import grids
from dora.analysis.grouping import (
    BASELINE,
    Table,
    dirty,
)
from dora.analysis.layout import Grid, in_markdown, latex_file, markdown
from dora.plain import printable
from dora.records import study

HOLES_SHOWN = 20


def holes(table: Table, seen: Sequence[study.Seen]) -> list[str]:
    """The commands of the runs that this table lacks; none where it shows a choice of runs."""
    if table.view.where:
        return []
    return [
        s.command
        for s in seen
        if (s.place[0], s.place[2]) == (table.data, table.model) and s.state != "done"
    ]


def report(
    sheets: Sequence[Grid], missing: Sequence[str] = (), results: Path = Path("results")
) -> str:
    """All tables of one study in Markdown under a heading; `missing`: the commands that fill their holes in `results`."""
    first, *rest = sheets
    parts = [f"## {in_markdown(first.caption)}", markdown(first)]
    for grid in rest:
        parts += [f"### {in_markdown(grid.caption.partition(': ')[2])}", markdown(grid)]
    if missing:
        more = (
            [f"# and {len(missing) - HOLES_SHOWN} more: {study.missing_command(results)}"]
            if len(missing) > HOLES_SHOWN
            else []
        )
        parts += [
            f"### missing runs: {len(missing)}",
            "\n".join(f"    {line}" for line in [*missing[:HOLES_SHOWN], *more]),
        ]
    return "\n\n".join(parts)


def _lines(table: Table) -> Iterator[dict[str, Any]]:
    """A line of the CSV for each cell and each average; numbers in full."""
    for row in table.rows:
        runs = table.runs_of(row)
        common = {
            "data": table.data,
            "model": table.model,
            "score": table.view.score,
            "method": row[0],
            "budget": row[1],
            "adapter_params_min": min((r["params"]["adapter_end"] for r in runs), default=None),
            "adapter_params_max": max((r["params"]["adapter_end"] for r in runs), default=None),
            "head_params_max": max((r["params"]["head"] for r in runs), default=None),
        }
        for task in table.tasks:
            known, of_task = table.values(row, task), table.runs_of(row, task)
            several = len(known) > 1
            yield {
                **common,
                "task": task,
                "metric": table.view.metric(task),
                "n": len(known),
                "mean": statistics.mean(known.values()) if known else None,
                "std": statistics.stdev(known.values()) if several else None,
                "median": statistics.median(known.values()) if known else None,
                "values": " ".join(f"{seed}:{value:.4f}" for seed, value in known.items()),
                "missing_seeds": " ".join(map(str, sorted(table.seeds - known.keys()))),
                "degenerate": sum(
                    bool(r["results"][table.view.score]["degenerate"]) for r in of_task
                ),
                "dirty": sum(map(dirty, of_task)),
                "train_s_mean": statistics.mean(r["train_s"] for r in of_task) if of_task else None,
                "peak_memory_bytes_max": max(
                    (r["peak_memory_bytes"] for r in of_task), default=None
                ),
            }
        if (estimate := table.average(row)) is not None and len(table.averaged) > 1:
            low, high = estimate.interval()
            yield {**common, "task": "average", "mean": estimate.mean, "low": low, "high": high}


def _difference_lines(found: Sequence[Difference], table: Table) -> Iterator[dict[str, Any]]:
    for d in found:
        low, high = d.estimate.interval()
        of_examples = d.examples or (None, None)
        yield {
            "data": table.data,
            "model": table.model,
            "score": table.view.score,
            "method": d.row[0],
            "budget": d.row[1],
            "against": BASELINE,
            "task": d.task or "average",
            "mean": d.estimate.mean,
            "low": low,
            "high": high,
            "examples_low": of_examples[0],
            "examples_high": of_examples[1],
            "p_holm": d.p,
            "better": d.better,
            "detectable": d.estimate.detectable(),
            "seeds": min(d.seeds),
        }


def as_csv(lines: Sequence[dict[str, Any]]) -> str:
    """Lines under the head of all their keys; floats to six digits after the point, nothing where there is none (NaN).

    A text that a spreadsheet would compute, such as a model called `=cmd()`, begins with an apostrophe.
    """
    names = list(dict.fromkeys(key for line in lines for key in line))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n", restval="")
    writer.writeheader()
    for line in lines:
        known = {k: v for k, v in line.items() if not (isinstance(v, float) and math.isnan(v))}
        writer.writerow({k: _csv_cell(v) for k, v in known.items()})
    return file.getvalue()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, str):
        text = printable(value)
        return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
    return f"{value:.6f}" if isinstance(value, float) else value


def files(table: Table, results: Path, missing: Sequence[str]) -> dict[str, str]:
    """The table's files, name → text, the Markdown first."""
    sheets = grids(table)
    found = {f"{table.name}.md": report(sheets, missing, results) + "\n"}
    for grid in sheets:
        name = f"{table.name}{f'-{grid.name}' if grid.name else ''}"
        found[f"{name}.tex"] = latex_file(grid, name, "python -m dora.tables")
    found[f"{table.name}.csv"] = as_csv(list(_lines(table)))
    averages = differences(table) if len(table.averaged) > 1 else []
    if compared := [*averages, *differences(table, by_task=True)]:
        found[f"{table.name}-differences.csv"] = as_csv(list(_difference_lines(compared, table)))
    return found
