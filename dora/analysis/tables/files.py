"""The files of finished runs' tables for a paper, from the runs' run.json alone.

For each data source and model there are Markdown, LaTeX (a file a table) and CSV. `dora.tables`
writes them and prints the Markdown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from dora.analysis.studies import beginning, made_by, study_in, study_of
from dora.analysis.table import Table
from dora.analysis.tables.contents import ENDS, grids
from dora.analysis.tables.csv_lines import as_row, difference_lines, score_lines
from dora.analysis.tables.latex import latex_file
from dora.analysis.tables.layout import Grid, as_csv, in_markdown, markdown
from dora.records import study
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


def latex_names(table: Table) -> list[str]:
    """Returns the names that LaTeX files of this table may have.

    Every table has a LaTeX file, so these tell of its other files too.
    """
    return [f"{table.name}{end}.tex" for end in ENDS]


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
    found[f"{table.name}.csv"] = as_csv(list(score_lines(table)))
    found[f"{table.name}-runs.csv"] = as_csv(
        [as_row(run) for run in sorted(table.runs, key=lambda run: place_of(run["folder"]))],
        exact=True,
    )
    if compared := list(difference_lines(table)):
        found[f"{table.name}-differences.csv"] = as_csv(compared)
    return found
