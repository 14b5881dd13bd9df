"""Tables as LaTeX: floats of booktabs that compile alone and that a paper can input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from dora.analysis.layout import Grid
from dora.plain import printable

# What a document needs to set these characters as themselves, with \pm and dashes from its fonts.
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
    """Returns any text as LaTeX that shows it; the sign of a number is a minus, not a hyphen."""
    # A sign has no letter, digit, point or hyphen before it, unlike the hyphens of 2024-01-31.
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", printable(text).translate(_LATEX))


# A float cannot be longer than a page: 40 rows leave room for the caption and the notes.
_ROWS_A_PAGE = 40
# The rows in a box, set smaller until the box is as wide as the text: \footnotesize, \scriptsize,
# then scaled by graphicx, or \tiny in a document without it.
_FITTED = [
    r"  \footnotesize\sbox0{\tablerows}",
    r"  \ifdim\wd0>\textwidth\scriptsize\sbox0{\tablerows}\fi",
    r"  \ifdim\wd0>\textwidth",
    r"    \ifdefined\resizebox\sbox0{\resizebox{\textwidth}{!}{\tablerows}}"
    r"\else\tiny\sbox0{\tablerows}\fi",
    r"  \fi\usebox0",
]
# `83.0 ± 3.6*† (n = 2/3)`, with `from mnli` or another metric's name for a published number.
_SCORE = re.compile(
    r"([+-]?\d+\.\d) ± (\d+\.\d)([*†‡]*)(?: (from \w+)| \((n = \d+/\d+|\D[\w ]*)\))?"
)
_INTERVAL = re.compile(r"([+-]?\d+\.\d) (\[[+-]?\d+\.\d, [+-]?\d+\.\d\])")


def latex(grid: Grid, label: str) -> str:
    r"""Returns floats of booktabs across both columns of a page, several for more than a page.

    The caption and `\label{tab:LABEL}` stand above, the notes below the last. Rows that are wider
    than the text in \footnotesize are set in \scriptsize, and smaller where that is not enough.
    """
    parts = _parts(grid)
    # LaTeX reads commands in a label, where escapes would not help: other characters go.
    label = re.sub(r"[^\w .=+-]", "_", label)
    return "\n".join(_float(part, f"tab:{label}" if i == 0 else "") for i, part in enumerate(parts))


def _parts(grid: Grid) -> list[Grid]:
    """Returns the grid in parts that fit on a page, of about equal length."""
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
    """Returns one table as a float; an empty label for any part but the first."""
    words = grid.text_columns
    align = "l" * words + "r" * (len(grid.head) - words)
    body = []
    for i, row in enumerate(grid.rows):
        body += [r"  \midrule"] if i in grid.rules else []
        body.append(_line([_cell(v, (i, j) in grid.bold) for j, v in enumerate(row)]))
    below = [r"  \par\smallskip\begin{minipage}{\textwidth}\scriptsize\raggedright"]
    below += [rf"  {escaped(note)}\par" for note in grid.notes]
    named = rf"\label{{{label}}}" if label else ""
    return "\n".join(
        [
            r"\begin{table*}[tbp]",
            r"  \centering",
            rf"  \caption{{{escaped(grid.caption)}}}{named}\smallskip",
            r"  \def\tablerows{\setlength{\tabcolsep}{.4em}"
            rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}",
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
    """Returns a cell with the number large, its spread or interval below, marks and remarks above.

    A table of eight tasks fits on a page only that way.
    """
    below = above = ""
    if found := _SCORE.fullmatch(text):
        text, spread, marks, *remarks = found.groups(default="")
        below = rf"\pm {spread}"
        above = escaped(marks).replace("$", "").replace("^", "") + _upright("".join(remarks))
    elif found := _INTERVAL.fullmatch(text):
        text, below = found.groups()
    # `1,200 to 2,000` with a dash, which is narrower.
    number = escaped(re.sub(r"(\d) to (\d)", r"\1–\2", text))
    # The empty superscript keeps every subscript of a row on one line, also of cells without marks.
    small = f"$_{{{below}}}^{{{above}}}$" if below else ""
    return (rf"\textbf{{{number}}}" if bold else number) + small


def _upright(words: str) -> str:
    return rf"\mathrm{{{escaped(words).replace(' = ', '{=}').replace(' ', '~')}}}" if words else ""


def _head(text: str, align: str) -> str:
    """Returns a head in two lines, which keeps its column narrow.

    The second line is its bracket, or about half of it.
    """
    brackets, spaces = ([m.start() for m in re.finditer(p, text)] for p in (r" (?=[\[(])", " "))
    gaps = brackets or spaces
    if not gaps:
        return escaped(text)
    middle = min(gaps, key=lambda gap: abs(2 * gap - len(text) + 1))
    first, second = escaped(text[:middle]), escaped(text[middle + 1 :])
    # The empty group keeps a second line that begins with [ from being an option of the first.
    return rf"\begin{{tabular}}[b]{{@{{}}{align}@{{}}}}{first}\\{{}}{second}\end{{tabular}}"


def latex_file(grid: Grid, label: str, made_by: str) -> str:
    r"""Returns the table as a file that compiles as it is and that a paper can \input.

    A paper needs booktabs for it; with graphicx a table is as narrow as the text whatever it holds.
    """
    # A document that has begun has no \@nodocument left, by which the file tells the two apart.
    alone = [
        rf"% {made_by}; \input it in a document with \usepackage{{booktabs,graphicx}}, "
        "or compile it as it is.",
        r"\expandafter\ifx\csname @nodocument\endcsname\relax\else",
        r"  \documentclass{article}\usepackage{booktabs,graphicx}",
        r"  \usepackage[landscape,margin=1cm]{geometry}\def\alonestanding{}\begin{document}",
        r"\fi",
    ]
    end = [r"\ifdefined\alonestanding\end{document}\fi"]
    return "\n".join([*alone, latex(grid, label), *end]) + "\n"
