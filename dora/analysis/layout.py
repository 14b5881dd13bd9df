"""A table as text cells, and the same table as Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from dora.plain import printable


@dataclass
class Grid:
    """Rows of cells under a head. `bold` and `rules`: (row, column) of cells in bold, rows with a rule above them.

    `text_columns`: how many columns from the left are words rather than numbers. `notes` stand below. `name`: what
    tells its file from those of the other tables of a study, empty for the main one.
    """

    caption: str
    head: list[str]
    rows: list[list[str]]
    text_columns: int = 2
    bold: set[tuple[int, int]] = field(default_factory=set)
    rules: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    name: str = ""


def markdown(grid: Grid) -> str:
    """A pipe table with its notes as a list."""
    head = list(map(in_markdown, grid.head))
    rows = [list(map(in_markdown, row)) for row in grid.rows]
    for i, j in grid.bold:
        rows[i][j] = f"**{rows[i][j]}**"
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(v.ljust(w) for v, w in zip(cells, widths, strict=True)) + " |"

    text = "\n".join([line(head), line(["-" * w for w in widths]), *map(line, rows)])
    notes = "\n".join(f"- {in_markdown(note)}" for note in grid.notes)
    return "\n\n".join([text, notes] if notes else [text])


# What ends a cell, begins code or a tag, or makes a link of the brackets before it (those of an interval stay).
_MARKDOWN = re.compile(
    r"""([\\|`] | <(?=[A-Za-z/!?]) | (?<=\])[(\[] | (?<=\]):(?=\s*\S*\s*(?:["'(]|$)))""", re.VERBOSE
)


def in_markdown(text: object) -> str:
    """Any text as one line of Markdown that shows it: no cell, code, link or HTML begins or ends in it."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "%": r"\%",
        "&": r"\&",
        "#": r"\#",
        "$": r"\$",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "−": r"$-$",
        "–": "--",
        "*": r"$^{*}$",
        "†": r"$^{\dagger}$",
        "‡": r"$^{\ddagger}$",
        "<": r"$<$",
        ">": r"$>$",
        "|": r"$|$",
    }
)


def escaped(text: str) -> str:
    """Any text as LaTeX sets it; the sign of a number is a minus, not a hyphen."""
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", printable(text).translate(_LATEX))


# A float cannot be longer than a page: 40 rows leave room for the caption and the notes.
_ROWS_A_PAGE = 40
_FITTED = [
    r"  \footnotesize\sbox0{\tablerows}",
    r"  \ifdim\wd0>\textwidth\scriptsize\sbox0{\tablerows}\fi",
    r"  \ifdim\wd0>\textwidth",
    r"    \ifdefined\resizebox\sbox0{\resizebox{\textwidth}{!}{\tablerows}}\else\tiny\sbox0{\tablerows}\fi",
    r"  \fi\usebox0",
]
_SCORE = re.compile(
    r"([+-]?\d+\.\d) ± (\d+\.\d)([*†‡]*)(?: (from \w+)| \((n = \d+/\d+|\D[\w ]*)\))?"
)
_INTERVAL = re.compile(r"([+-]?\d+\.\d) (\[[+-]?\d+\.\d, [+-]?\d+\.\d\])")


def latex(grid: Grid, label: str) -> str:
    r"""Floats of booktabs across both columns of a page, one unless it would be longer than the page.

    The caption and `\label{tab:LABEL}` above, the notes below the last. Rows that are wider than the text in
    \footnotesize are set in \scriptsize, and made smaller still where that is not enough.
    """
    parts = _parts(grid)
    label = re.sub(r"[^\w .=+-]", "_", label)  # LaTeX reads commands in it
    return "\n".join(_float(part, f"tab:{label}" if i == 0 else "") for i, part in enumerate(parts))


def _parts(grid: Grid) -> list[Grid]:
    """The grid in parts that fit on a page, of about equal length."""
    number = -(-len(grid.rows) // _ROWS_A_PAGE)
    if number < 2:
        return [grid]
    ends = [len(grid.rows) * i // number for i in range(number + 1)]
    return [
        replace(
            grid,
            caption=f"{grid.caption} ({i} of {number})",
            rows=grid.rows[start:end],
            bold={(row - start, column) for row, column in grid.bold},
            rules={row - start for row in grid.rules if row > start},
            notes=grid.notes if i == number else [],
        )
        for i, (start, end) in enumerate(pairwise(ends), 1)
    ]


def _float(grid: Grid, label: str) -> str:
    words = grid.text_columns
    align = "l" * words + "r" * (len(grid.head) - words)
    body = []
    for i, row in enumerate(grid.rows):
        body += [r"  \midrule"] if i in grid.rules else []
        body.append(_line([_cell(v, (i, j) in grid.bold) for j, v in enumerate(row)]))
    below = [r"  \par\smallskip\begin{minipage}{\textwidth}\scriptsize\raggedright"]
    below += [rf"  {escaped(note)}\par" for note in grid.notes]
    return "\n".join(
        [
            r"\begin{table*}[tbp]",
            r"  \centering",
            rf"  \caption{{{escaped(grid.caption)}}}"
            + (rf"\label{{{label}}}" if label else "")
            + r"\smallskip",
            rf"  \def\tablerows{{\setlength{{\tabcolsep}}{{.4em}}\begin{{tabular}}{{@{{}}{align}@{{}}}}",
            r"  \toprule",
            _line([_head(v, align[j]) for j, v in enumerate(grid.head)]),
            r"  \midrule",
            *body,
            r"  \bottomrule",
            r"  \end{tabular}}",
            *_FITTED,
            *([*below, r"  \end{minipage}"] if grid.notes else []),
            r"\end{table*}",
        ]
    )


def _line(cells: Sequence[str]) -> str:
    # The row before would read a bracket as an option of its end.
    first = "{}" if cells[0].startswith("[") else ""
    return "  " + first + " & ".join(cells) + r" \\"


def _cell(text: str, bold: bool) -> str:
    """Sets what belongs to a number small: a spread or an interval below, marks and remarks above."""
    below = above = ""
    if found := _SCORE.fullmatch(text):
        text, spread, marks, *remarks = found.groups(default="")
        below = rf"\pm {spread}"
        above = escaped(marks).replace("$", "").replace("^", "") + _upright("".join(remarks))
    elif found := _INTERVAL.fullmatch(text):
        text, below = found.groups()
    number = escaped(re.sub(r"(\d) to (\d)", r"\1–\2", text))
    # The empty superscript keeps every subscript of a row on one line, with marks above it or without.
    small = f"$_{{{below}}}^{{{above}}}$" if below else ""
    return (rf"\textbf{{{number}}}" if bold else number) + small


def _upright(words: str) -> str:
    return rf"\mathrm{{{escaped(words).replace(' = ', '{=}').replace(' ', '~')}}}" if words else ""


def _head(text: str, align: str) -> str:
    """Sets a head in two lines, the second its bracket or about half of it, to keep its column narrow."""
    brackets, spaces = ([m.start() for m in re.finditer(p, text)] for p in (r" (?=[\[(])", " "))
    gaps = brackets or spaces
    if not gaps:
        return escaped(text)
    middle = min(gaps, key=lambda gap: abs(2 * gap - len(text) + 1))
    first, second = escaped(text[:middle]), escaped(text[middle + 1 :])
    # The empty group keeps a second line that begins with [ from being read as the first one's option.
    return rf"\begin{{tabular}}[b]{{@{{}}{align}@{{}}}}{first}\\{{}}{second}\end{{tabular}}"


def latex_file(grid: Grid, label: str, made_by: str) -> str:
    r"""The table as a file that compiles as it is and that a paper can \input (it needs booktabs; graphicx
    makes a table as narrow as the text whatever it holds).

    A document that has begun has no \@nodocument left, by which the file tells the two apart.
    """
    alone = [
        rf"% {made_by}; \input it in a document with \usepackage{{booktabs,graphicx}}, or compile it as it is.",
        r"\expandafter\ifx\csname @nodocument\endcsname\relax\else",
        r"  \documentclass{article}\usepackage{booktabs,graphicx}",
        r"  \usepackage[landscape,margin=1cm]{geometry}\def\alonestanding{}\begin{document}",
        r"\fi",
    ]
    end = [r"\ifdefined\alonestanding\end{document}\fi"]
    return "\n".join([*alone, latex(grid, label), *end]) + "\n"
