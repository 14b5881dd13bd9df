"""A table as cells of text, and the writers of text tables: Markdown, aligned text, CSV.

Every command that prints a table uses these; `dora.analysis.tables.latex` writes the same tables for
papers. Needs the standard library alone, because `dora.status` should start at once.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dora.plain import printable


@dataclass
class Grid:
    """Rows of cells under a head.

    `text_columns`: the number of columns from the left that hold words, not numbers. `units`: by
    column the end of its head that print sets in a second row, as `acc` of `SST-2 acc`. `bold` and
    `underlined`: (row, column) of cells. `rules`: rows with a rule above them. `spare`: columns
    that print may leave out where the table is wide, each with the note that replaces it. `notes`
    stand below. `name` tells the table's file from those of a study's other tables; the main one
    has none.
    """

    caption: str
    head: list[str]
    rows: list[list[str]]
    text_columns: int = 2
    units: dict[int, str] = field(default_factory=dict)
    bold: set[tuple[int, int]] = field(default_factory=set)
    underlined: set[tuple[int, int]] = field(default_factory=set)
    rules: set[int] = field(default_factory=set)
    spare: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    name: str = ""


def transposed(grid: Grid) -> Grid:
    """Returns the table with a row for each task and its rows as columns, named by their words.

    Print sets the last word of a row, its budget, in the second row of the head. The only rule
    stands below a first row that is not of scores.
    """
    words = grid.text_columns
    body = list(range(words, len(grid.head)))
    named = [[word for word in row[:words] if word != "–"] for row in grid.rows]

    def turned(cells: set[tuple[int, int]]) -> set[tuple[int, int]]:
        """Returns where cells of the body stand now."""
        return {(j - words, i + 1) for i, j in cells}

    return replace(
        grid,
        head=["task", *map(" ".join, named)],
        rows=[[grid.head[j], *(row[j] for row in grid.rows)] for j in body],
        text_columns=1,
        units={i: name[-1] for i, name in enumerate(named, 1) if len(name) == words},
        bold=turned(grid.bold),
        underlined=turned(grid.underlined),
        rules={1} if body and body[0] not in grid.units else set(),
        spare={},
    )


def aligned(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """Returns the lines with every cell as wide as the widest of its column."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [[v.ljust(w) for v, w in zip(line, widths, strict=True)] for line in lines]


def plain(grid: Grid) -> str:
    """Returns head and rows as aligned columns for a terminal; caption and marks are left out."""
    lines = [list(map(printable, line)) for line in (grid.head, *grid.rows)]
    return "\n".join("  ".join(line).rstrip() for line in aligned(lines))


def pipe_table(lines: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table, the first line its head; cells are taken as they are."""
    head, *body = aligned(lines)
    # Three dashes at least, which every reader of Markdown takes for a rule.
    rule = ["-" * max(3, len(cell)) for cell in head]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *body))


def markdown(grid: Grid) -> str:
    """Returns a pipe table with its notes as a list.

    Markdown has no underline: such a cell stands between underscores, which look like one on a
    terminal and are italics where Markdown is rendered.
    """
    rows = [list(map(in_markdown, row)) for row in grid.rows]
    for i, j in grid.bold:
        # A star of the cell's own could end the bold text.
        rows[i][j] = "**{}**".format(rows[i][j].replace("*", r"\*"))
    for i, j in grid.underlined:
        rows[i][j] = f"_{rows[i][j]}_"
    text = pipe_table([list(map(in_markdown, grid.head)), *rows])
    said = [in_markdown(note) for note in grid.notes]
    if grid.underlined:
        said.append("_underlined_ cells are italic here, or between underscores")
    return "\n\n".join([text, "\n".join(f"- {note}" for note in said)] if said else [text])


# Characters that end a cell, begin code or a tag, or make a link of the brackets before them. The
# brackets of an interval stay as they are.
_MARKDOWN = re.compile(
    r"""([\\|`] | <(?=[A-Za-z/!?]) | (?<=\])[(\[] | (?<=\]):(?=\s*\S*\s*(?:["'(]|$)))""", re.VERBOSE
)


def in_markdown(text: object) -> str:
    """Returns any text as one line of Markdown that shows it.

    No cell, code, link or HTML begins or ends in it.
    """
    return _MARKDOWN.sub(r"\\\1", printable(text))


def as_csv(lines: Sequence[dict[str, Any]], exact: bool = False) -> str:
    """Returns lines as CSV, under the head of all their keys.

    Floats have six digits after the point, or all of their digits if `exact`. A NaN, or a key that
    a line lacks, is an empty cell. A text that a spreadsheet would compute, such as a model called
    `=cmd()`, begins with an apostrophe.
    """
    names = list(dict.fromkeys(key for line in lines for key in line))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n", restval="")
    writer.writeheader()
    for line in lines:
        known = {k: v for k, v in line.items() if not (isinstance(v, float) and math.isnan(v))}
        writer.writerow({k: _csv_cell(v, exact) for k, v in known.items()})
    return file.getvalue()


def _csv_cell(value: Any, exact: bool) -> Any:
    # A negative number is a number to a spreadsheet; a text that begins with a minus is a formula.
    if isinstance(value, str):
        text = printable(value)
        return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
    if isinstance(value, float):
        return repr(value) if exact else f"{value:.6f}"
    return value
