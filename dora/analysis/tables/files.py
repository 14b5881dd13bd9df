"""The files of finished runs' tables for a paper, from the runs' run.json alone.

For each data source and model there are Markdown, LaTeX (a file a table) and CSV. `dora.tables`
writes them and prints the Markdown.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from dora.analysis.comparison import Difference, differences
from dora.analysis.rows import Row
from dora.analysis.studies import beginning, made_by, study_in, study_of
from dora.analysis.table import AVERAGE, Table
from dora.analysis.tables.contents import grids
from dora.analysis.tables.latex import latex_file
from dora.analysis.tables.layout import Grid, as_csv, in_markdown, markdown
from dora.analysis.tables.per_run import as_row
from dora.records import study
from dora.records.about_method import adapter_parameters
from dora.records.about_starts import dirty
from dora.records.place import place_of

HOLES_SHOWN = 20  # commands of missing runs in a report; a study that has begun lacks hundreds


def report(
    shown: Sequence[Grid], missing: Sequence[str] = (), results: Path = Path("results")
) -> str:
    """Returns all tables of one study in Markdown, each under a heading.

    `missing`: the commands that fill their holes in `results`.
    """
    first, *rest = shown
    parts = [f"## {in_markdown(first.caption)}", markdown(first)]
    for grid in rest:
        parts += [f"### {in_markdown(grid.caption.partition(': ')[2])}", markdown(grid)]
    if missing:
        lines = list(missing[:HOLES_SHOWN])
        if (more := len(missing) - HOLES_SHOWN) > 0:
            # As a comment, so that the whole block can be pasted into a shell.
            lines.append(f"# and {more} more: {study.command_over(results, 'status', '--missing')}")
        parts += [f"### missing runs: {len(missing)}", "\n".join(f"    {line}" for line in lines)]
    return "\n\n".join(parts)


# The ends of the names of a study's tables: "" for the scores, which always exist.
_ENDS = (
    "",
    "-differences",
    "-differences-by-task",
    "-medians",
    "-costs",
    "-trained",
    "-federated",
    "-settings",
)


def latex_names(table: Table) -> list[str]:
    """Returns the names that LaTeX files of this table may have.

    Every table has a LaTeX file, so these tell of its other files too.
    """
    return [f"{table.name}{end}.tex" for end in _ENDS]


def stale(table: Table, results: Path, folder: Path, made: Collection[str]) -> list[Path]:
    """Returns the files in `folder` that an earlier call made for this table, and none now.

    LaTeX, and the CSV of differences. `made`: the names of this call's files. A file without this
    command's first line, or with another study's, stays.
    """
    names = [name for name in latex_names(table) if name not in made]
    old = [folder / name for name in names if study_in(folder / name) == study_of(results)]
    differences_csv = folder / f"{table.name}-differences.csv"
    if differences_csv.name not in made and beginning(differences_csv).startswith("data,model,"):
        old.append(differences_csv)
    return old


def _lines(table: Table) -> Iterator[dict[str, Any]]:
    """Yields a line of the CSV for each cell and each average; numbers are not rounded."""
    for row in table.rows:
        runs = table.runs_of(row)
        sizes = [adapter_parameters(run, table.view.score) for run in runs]
        common = {
            "data": table.data,
            "model": table.model,
            "score": table.view.score,
            "method": row[0],
            "budget": row[1],
            "adapter_params_min": min(sizes, default=None),
            "adapter_params_max": max(sizes, default=None),
            "head_params_max": max((r["params"]["head"] for r in runs), default=None),
        }
        for task in table.tasks:
            yield {**common, **_cell(table, row, task)}
        # Columns `low` and `high` are the averages' own.
        if None in table.columns and (estimate := table.average(row)) is not None:
            low, high = estimate.interval()
            yield {**common, "task": AVERAGE, "mean": estimate.mean, "low": low, "high": high}


def _cell(table: Table, row: Row, task: str) -> dict[str, Any]:
    """Returns the columns of the CSV that are a cell's own."""
    known, runs = table.values(row, task), table.runs_of(row, task)
    result = table.view.score
    return {
        "task": task,
        "metric": table.view.metric(task),
        "n": len(known),
        "mean": statistics.mean(known.values()) if known else None,
        "std": statistics.stdev(known.values()) if len(known) > 1 else None,
        "median": statistics.median(known.values()) if known else None,
        # Every seed, so that anyone can test differences in another way.
        "values": " ".join(f"{seed}:{value:.4f}" for seed, value in known.items()),
        "missing_seeds": " ".join(map(str, sorted(table.seeds - known.keys()))),
        "degenerate": sum(bool(run["results"][result]["degenerate"]) for run in runs),
        "dirty": sum(map(dirty, runs)),
        "train_s_mean": statistics.mean(run["train_s"] for run in runs) if runs else None,
        "peak_memory_bytes_max": max((run["peak_memory_bytes"] for run in runs), default=None),
    }


def _difference_lines(found: Sequence[Difference], table: Table) -> Iterator[dict[str, Any]]:
    """Yields a line of the CSV of differences for each of them; numbers are not rounded."""
    for d in found:
        low, high = d.estimate.interval()
        of_examples = d.examples or (None, None)
        yield {
            "data": table.data,
            "model": table.model,
            "score": table.view.score,
            "method": d.row[0],
            "budget": d.row[1],
            "against": table.view.baseline,
            "task": d.task or AVERAGE,
            "mean": d.estimate.mean,
            "low": low,
            "high": high,
            "examples_low": of_examples[0],
            "examples_high": of_examples[1],
            "p_holm": d.p,
            "better": d.better,
            "detectable": d.detectable,
            # For an average this is the number of the task with fewest pairs.
            "seeds": min(d.seeds),
        }


def files(table: Table, results: Path, missing: Sequence[str]) -> dict[str, str]:
    """Returns the table's files, name → text, the Markdown first."""
    shown = grids(table)
    found = {f"{table.name}.md": report(shown, missing, results) + "\n"}
    for grid in shown:
        name = f"{table.name}{f'-{grid.name}' if grid.name else ''}"
        # With the study in the label, tables of several studies have no label twice in one paper.
        found[f"{name}.tex"] = latex_file(
            grid, f"{study_of(results)}-{name}", made_by("tables", results)
        )
    found[f"{table.name}.csv"] = as_csv(list(_lines(table)))
    found[f"{table.name}-runs.csv"] = as_csv(
        [as_row(run) for run in sorted(table.runs, key=lambda run: place_of(run["folder"]))],
        exact=True,
    )
    if compared := differences(table):
        found[f"{table.name}-differences.csv"] = as_csv(list(_difference_lines(compared, table)))
    return found
