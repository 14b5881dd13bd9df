"""A table as text cells, and the same table as Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Grid:
    """Rows of cells under a head. `bold` and `rules`: (row, column) of cells in bold, rows with a rule above them.

    `text_columns`: how many columns from the left are words rather than numbers. `notes` stand below.
    """

    caption: str
    head: list[str]
    rows: list[list[str]]
    text_columns: int = 2
    bold: set[tuple[int, int]] = field(default_factory=set)
    rules: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def markdown(grid: Grid) -> str:
    """A pipe table with its notes as a list."""
    rows = [[f"**{v}**" if (i, j) in grid.bold else v for j, v in enumerate(r)] for i, r in enumerate(grid.rows)]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(grid.head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(v.ljust(w) for v, w in zip(cells, widths, strict=True)) + " |"

    text = "\n".join([line(grid.head), line(["-" * w for w in widths]), *map(line, rows)])
    return "\n\n".join([text, *(["\n".join(f"- {note}" for note in grid.notes)] if grid.notes else [])])


_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": r"$-$", "–": "--",
    "*": r"$^{*}$", "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$", "<": r"$<$", ">": r"$>$", "|": r"$|$",
})  # fmt: skip


def escaped(text: str) -> str:
    """Any text as LaTeX sets it; the sign of a number is a minus, not a hyphen."""
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", text.translate(_LATEX))


def latex(grid: Grid) -> str:
    """A `table` of booktabs, caption above and notes below."""

    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join(cells) + r" \\"

    words = grid.text_columns
    body = []
    for i, row in enumerate(grid.rows):
        body += [r"  \midrule"] if i in grid.rules else []
        body.append(line([rf"\textbf{{{escaped(v)}}}" if (i, j) in grid.bold else escaped(v) for j, v in enumerate(row)]))  # fmt: skip
    notes = [rf"  \par\smallskip {escaped(note)}" for note in grid.notes]
    return "\n".join([
        r"\begin{table}[htbp]", r"  \centering\footnotesize", rf"  \caption{{{escaped(grid.caption)}}}",
        rf"  \begin{{tabular}}{{{'l' * words}{'r' * (len(grid.head) - words)}}}", r"  \toprule",
        line([escaped(v) for v in grid.head]), r"  \midrule", *body, r"  \bottomrule", r"  \end{tabular}",
        *notes, r"\end{table}",
    ])  # fmt: skip


def latex_file(grids: Sequence[Grid], made_by: str) -> str:
    r"""The tables as a file that compiles as it is and that a paper can \input (it needs booktabs alone).

    A document that has begun has no \@nodocument left, by which the file tells the two apart.
    """
    alone = [
        rf"% {made_by}; \input it in a document with \usepackage{{booktabs}}, or compile it as it is.",
        r"\expandafter\ifx\csname @nodocument\endcsname\relax\else",
        r"  \documentclass{article}\usepackage{booktabs}",
        r"  \usepackage[landscape,margin=1cm]{geometry}\def\alonestanding{}\begin{document}",
        r"\fi",
    ]
    end = [r"\ifdefined\alonestanding\end{document}\fi"]
    return "\n".join([*alone, *map(latex, grids), *end]) + "\n"
