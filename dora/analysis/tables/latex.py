"""Tables as LaTeX: floats of booktabs and siunitx that compile alone and that a paper can input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from dora.analysis.tables.latex_cells import GAP, column, escaped, width
from dora.analysis.tables.layout import Grid, aligned

# Widths of text in points: a column of an ACL paper, a one-column article at 10 pt.
_NARROW, _WIDE = 215, 345
# A float cannot be longer than a page, which has room for so many rows beside caption and notes;
# rows of wide tables may have their spreads below them.
_ROWS, _ROWS_OF_WIDE = 34, 26
_LONG = 13  # characters of a head that has two lines
# Letters of 6 pt are the smallest of any table: those of spreads and marks, which stand beside a
# number, or below it where the table would otherwise be wider than the text.
_MACROS = r"""
  \sisetup{mode=text, reset-text-family=false, reset-text-series=false, reset-text-shape=false,
    table-align-text-before=false, table-align-text-after=false, retain-explicit-plus}
  \def\six{\fontsize{6}{7}\mdseries\selectfont}
  \def\high#1{\smash{$^{\hbox{\six#1}}$}}
  \def\beside#1#2{\smash{$_{\hbox{\six#1}}^{\hbox{\six#2}}$}}
  \def\below#1#2{\llap{\hbox to \wd6{\hss\smash{\raisebox{-6.5pt}{\six#1}}\hss}}%
    \vrule width 0pt depth 8pt\high{#2}}
  \def\asbelow#1#2{\ooalign{\hfil#2\hfil\cr\hphantom{\six#1}\cr}}
  \def\under#1{\llap{\underline{\phantom{#1}}}}
  \def\textminus{$-$}\def\sd#1{\spread{$\pm$#1}{}}
  \let\spread\beside \def\room#1#2{#2}
  \def\gap{6pt}\setlength{\tabcolsep}{3pt}\renewcommand{\arraystretch}{1.1}""".strip("\n")
# The rows in a box, set smaller until the box is as wide as the text: \footnotesize, \scriptsize,
# both with spreads below the numbers, 6 pt with two sizes of gaps. Box 6 is a number, under whose
# middle a spread stands.
# siunitx keeps room for numbers that are not bold; bold ones may reach 1.5 pt into the gap.
_FITTED = r"""
  \def\fitted{\sbox6{00.0}\sbox8{\hfuzz=1.5pt\tablerows}}
  \footnotesize\fitted
  \ifdim\wd8>\linewidth \scriptsize\fitted\fi
  \ifdim\wd8>\linewidth \footnotesize\let\spread\below \let\room\asbelow
    \renewcommand{\arraystretch}{1}\fitted\fi
  \ifdim\wd8>\linewidth \scriptsize\setlength{\tabcolsep}{1.5pt}\fitted\fi
  \ifdim\wd8>\linewidth \six\setlength{\tabcolsep}{1pt}\def\gap{3pt}\fitted\fi
  \ifdim\wd8>\linewidth \setlength{\tabcolsep}{.3pt}\def\gap{1.5pt}\fitted\fi
  \usebox8""".strip("\n")


def latex(grid: Grid, label: str) -> str:
    r"""Returns floats of booktabs, several where one cannot hold the table.

    `table*`, across both columns of a page, where the table is wide, else `table`. The caption and
    `\label{tab:LABEL}` stand above, the notes below the last float.
    """
    # LaTeX reads commands in a label, where escapes would not help: other characters go.
    label = re.sub(r"[^\w .=+-]", "_", label)
    parts = _parts(_narrowed(grid))
    return "\n".join(_float(part, f"tab:{label}" if i == 0 else "") for i, part in enumerate(parts))


def _widths(grid: Grid, size: float, below: bool) -> list[float]:
    """Returns about how many points each column takes at this size (`latex_cells.width`)."""
    found = []
    for j, heads in enumerate(_heads(grid)):
        cells = [row[j] for row in grid.rows]
        shape = column(cells, j < grid.text_columns)
        found.append(width(shape, [*heads, *cells], size, below))
    return found


def _narrowed(grid: Grid) -> Grid:
    """Returns the table without its spare columns if it is wider than a page, with their notes."""
    if not grid.spare or sum(_widths(grid, 7, below=False)) <= _WIDE:
        return grid
    kept = [j for j in range(len(grid.head)) if j not in grid.spare]
    left = sum(j < grid.text_columns for j in kept)
    return replace(_of_columns(grid, kept, left), notes=[*grid.spare.values(), *grid.notes])


def _of_columns(grid: Grid, kept: Sequence[int], text_columns: int) -> Grid:
    """Returns the table with some of its columns alone."""
    place = {j: k for k, j in enumerate(kept)}
    return replace(
        grid,
        head=[grid.head[j] for j in kept],
        rows=[[row[j] for j in kept] for row in grid.rows],
        text_columns=text_columns,
        units={place[j]: unit for j, unit in grid.units.items() if j in place},
        bold={(i, place[j]) for i, j in grid.bold if j in place},
        underlined={(i, place[j]) for i, j in grid.underlined if j in place},
        spare={},
    )


def _parts(grid: Grid) -> list[Grid]:
    """Returns the table in parts that fit on a page, each with the words of its rows."""
    words, rows = list(range(grid.text_columns)), list(range(len(grid.rows)))
    wide = sum(_widths(grid, 7, below=False)) > _WIDE
    number = -(-len(rows) // (_ROWS_OF_WIDE if wide else _ROWS))
    ends = [len(rows) * i // max(1, number) for i in range(number + 1)]
    parts = [
        _of_rows(_of_columns(grid, [*words, *some], len(words)), rows[start:end])
        for start, end in pairwise(ends)
        for some in _split_columns(grid)
    ]
    if len(parts) == 1:
        return parts
    return [
        replace(
            part,
            caption=f"{grid.caption} ({i} of {len(parts)})",
            notes=grid.notes if i == len(parts) else [],
        )
        for i, part in enumerate(parts, 1)
    ]


def _split_columns(grid: Grid) -> list[list[int]]:
    """Returns the columns beside the words in the fewest parts that fit, of about equal width."""
    widths = _widths(grid, 6, below=True)
    # The smallest gaps are about a point a column less than `width` has.
    room = 1.03 * _WIDE - sum(widths[: grid.text_columns])
    places = range(grid.text_columns, len(widths))

    def filled(limit: float) -> list[list[int]]:
        """Returns the columns in parts up to a width; each has one column at least."""
        parts: list[list[int]] = [[]]
        for j in places:
            if parts[-1] and sum(widths[k] for k in parts[-1]) + widths[j] > limit:
                parts.append([])
            parts[-1].append(j)
        return parts

    fewest = len(filled(room))
    equal = sum(widths[j] for j in places) / fewest
    # A little more than an equal share each, as columns cannot be cut.
    for percent in range(100):
        limit = equal * (1 + percent / 100)
        if limit < room and len(parts := filled(limit)) == fewest:
            return parts
    return filled(room)


def _of_rows(grid: Grid, kept: Sequence[int]) -> Grid:
    """Returns the table with successive rows alone."""
    start = kept[0] if kept else 0

    def moved(cells: set[tuple[int, int]]) -> set[tuple[int, int]]:
        """Returns where those of the cells stand that are left."""
        return {(i - start, j) for i, j in cells if i in kept}

    return replace(
        grid,
        rows=[grid.rows[i] for i in kept],
        bold=moved(grid.bold),
        underlined=moved(grid.underlined),
        rules={i - start for i in grid.rules if i in kept and i > start},
    )


def _heads(grid: Grid) -> list[list[str]]:
    """Returns the lines of each column's head, of equal number, units in the last one."""
    found = []
    for j, text in enumerate(grid.head):
        unit = grid.units.get(j, "")
        name = text.removesuffix(f" {unit}") if unit else text
        # Where units make a second line, names of methods need a third.
        lines = [name] if unit and len(name) < _LONG else _halves(name)
        found.append((lines, [unit] if unit else []))
    number = max(len(lines) + len(last) for lines, last in found)
    return [[*lines, *[""] * (number - len(lines) - len(last)), *last] for lines, last in found]


def _halves(text: str) -> list[str]:
    """Returns a head in two lines, which keeps its column narrow: its bracket, or about half."""
    brackets, spaces = (
        [m.start() for m in re.finditer(p, text)] for p in (r" (?=[\[(])", " (?!†)")
    )
    gaps = brackets or spaces
    if not gaps:
        return [text]
    middle = min(gaps, key=lambda gap: abs(2 * gap - len(text) + 1))
    return [text[:middle], text[middle + 1 :]]


def _float(grid: Grid, label: str) -> str:
    """Returns one table as a float; an empty label for any part but the first."""
    columns = [
        column([row[j] for row in grid.rows], j < grid.text_columns) for j in range(len(grid.head))
    ]
    heads = list(zip(*_heads(grid), strict=True))
    lines = [[c.head(text) for c, text in zip(columns, row, strict=True)] for row in heads]
    for i, row in enumerate(grid.rows):
        marks = [((i, j) in grid.bold, (i, j) in grid.underlined) for j in range(len(row))]
        lines.append(
            [c.cell(text, *mark) for c, text, mark in zip(columns, row, marks, strict=True)]
        )
    made = [_line(cells) for cells in aligned(lines)]
    body = made[len(heads) :]
    for i in sorted(grid.rules, reverse=True):
        body.insert(i, r"  \midrule")
    kind = "table" if sum(_widths(grid, 9, below=False)) <= _NARROW else "table*"
    below = [r"  \par\smallskip\begin{minipage}{\linewidth}\scriptsize\raggedright"]
    # One paragraph: on lines of their own ten notes would be as high as the table.
    below += [f"  {_note(note)}" for note in grid.notes]
    named = rf"\label{{{label}}}" if label else ""
    specs = "\n    ".join(c.spec for c in columns).removesuffix(GAP)
    return "\n".join(
        [
            rf"\begin{{{kind}}}[tbp]",
            r"  \centering",
            rf"  \caption{{{escaped(grid.caption)}}}{named}\smallskip",
            _MACROS,
            rf"  \def\tablerows{{\begin{{tabular}}{{@{{}}{specs}@{{}}}}",
            r"  \toprule",
            *made[: len(heads)],
            r"  \midrule",
            *body,
            r"  \bottomrule",
            r"  \end{tabular}}",
            _FITTED,
            *([*below, r"  \end{minipage}"] if grid.notes else []),
            rf"\end{{{kind}}}",
        ]
    )


def _line(cells: Sequence[str]) -> str:
    text = " & ".join(cells)
    # The row before would read a bracket as an option of its end.
    return "  " + ("{}" if text.startswith("[") else "") + text + r" \\"


def _note(text: str) -> str:
    """Returns a note as a sentence to stand among others; its mark, as `†a`, stands high."""
    if found := re.fullmatch(r"(†[a-z]|[*§‡⋄]) (.*)", text):
        return rf"\high{{{escaped(found[1])}}}\,{escaped(found[2])}.\quad"
    return rf"{escaped(text)}.\quad"


def latex_file(grid: Grid, label: str, made_by: str) -> str:
    r"""Returns the table as a file that compiles as it is and that a paper can \input.

    A paper needs booktabs and siunitx, version 3 of 2021 or newer.
    """
    # A document that has begun has no \@nodocument left, by which the file tells the two apart.
    alone = [
        rf"% {made_by}; \input it in a document with \usepackage{{booktabs,siunitx}}, "
        "or compile it as it is.",
        r"\expandafter\ifx\csname @nodocument\endcsname\relax\else",
        r"  \documentclass{article}\usepackage{booktabs,siunitx}",
        r"  \usepackage[landscape,margin=1cm]{geometry}\def\alonestanding{}\begin{document}",
        r"\fi",
    ]
    end = [r"\ifdefined\alonestanding\end{document}\fi"]
    return "\n".join([*alone, latex(grid, label), *end]) + "\n"
