"""A table as Markdown and LaTeX: what each cell becomes, and papers that it fits into."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dora.analysis.grouping import read_runs, tables
from dora.analysis.latex import latex, latex_file
from dora.analysis.layout import Grid, markdown, plain
from dora.analysis.text import files
from record_files import large_study

GOLDEN = Path(__file__).parents[1] / "golden"


def test_markdown_and_latex_set_what_a_grid_holds() -> None:
    grid = Grid(
        "a_b",
        ["x", "y [95 %]"],
        [
            ["m_1", "-0.5 ± 1"],
            ["–", "82.5 ± 1.0*† (n = 2/3)"],
            ["1,200 to 2,000", "-3.6 [-6.5, +0.8]"],
        ],
        text_columns=1,
        bold={(1, 1)},
        rules={1},
        notes=["50 %"],
    )
    assert markdown(grid).splitlines()[2:4] == [
        "| m_1            | -0.5 ± 1                   |",
        "| –              | **82.5 ± 1.0*† (n = 2/3)** |",
    ]
    # LaTeX sets what belongs to a number small, so that eight tasks fit on a page.
    lines = latex(grid, "dir-m").splitlines()
    assert lines[:2] == [r"\begin{table*}[tbp]", r"  \centering"]
    assert lines[2] == r"  \caption{a\_b}\label{tab:dir-m}\smallskip"
    assert lines[4:12] == [
        r"  \toprule",
        r"  x & \begin{tabular}[b]{@{}r@{}}y\\{}[95 \%]\end{tabular} \\",
        r"  \midrule",
        r"  m\_1 & $-$0.5 $\pm$ 1 \\",
        r"  \midrule",
        r"  -- & \textbf{82.5}$_{\pm 1.0}^{{*}{\dagger}\mathrm{n{=}2/3}}$ \\",
        r"  1,200--2,000 & $-$3.6$_{[-6.5, +0.8]}^{}$ \\",
        r"  \bottomrule",
    ]
    assert lines[-4:] == [
        r"  \par\smallskip\begin{minipage}{\textwidth}\scriptsize\raggedright",
        r"  50 \%\par",
        r"  \end{minipage}",
        r"\end{table*}",
    ]


def test_plain_text_is_aligned_and_shows_what_it_holds() -> None:
    grid = Grid("", ["name", "n", "of"], [["a", "1,200", ""], ["b\x1b[2J", "3", "4"]])
    assert plain(grid).split("\n") == [
        "name      n      of",
        "a         1,200",
        "b\\x1b[2J  3      4",
    ]


def test_a_table_longer_than_a_page_is_set_in_parts() -> None:
    rows = [[str(i), "1"] for i in range(90)]
    text = latex(
        Grid("c", ["x", "y"], rows, bold={(31, 0)}, rules={30, 45}, notes=["said once"]), "l"
    )
    # A page holds 40 rows; 90 are three parts of equal length, not 40, 40 and 10.
    parts = text.split(r"\end{table*}")[:-1]
    assert [part.count(r"& 1 \\") for part in parts] == [30, 30, 30]
    assert [part.count(r"\midrule") for part in parts] == [1, 2, 1]  # one below the head
    assert [part.count("said once") for part in parts] == [0, 0, 1]
    assert r"\caption{c (2 of 3)}\smallskip" in parts[1]
    assert r"\textbf{31}" in parts[1]
    # LaTeX warns of a label that is given twice.
    assert text.count(r"\label{tab:l}") == 1


# Documents with the widths of text that papers have.
PAPERS = {
    "one column": r"\documentclass{article}",
    "two columns": r"\documentclass[twocolumn]{article}",
    "ACL": r"\documentclass[11pt,twocolumn]{article}"
    r"\usepackage[textwidth=455pt,textheight=700pt]{geometry}",
}


def typeset(name: str, folder: Path) -> str:
    """Returns the output of pdflatex for NAME.tex in this folder; it must succeed."""
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX on this machine")
def test_the_latex_compiles_as_it_is_and_inside_a_paper_that_it_does_not_overprint(
    tmp_path: Path,
) -> None:
    large_study(tmp_path, 100)  # eight tasks, four budgets, published rows
    (table,) = tables(read_runs(tmp_path))
    made = files(table, tmp_path, [])
    names = [name.removesuffix(".tex") for name in made if name.endswith(".tex")]
    for name in names:
        (tmp_path / f"{name}.tex").write_text(made[f"{name}.tex"])
    for i, start in enumerate(PAPERS.values()):
        inputs = "".join(rf"\input{{{name}}}text\clearpage " for name in names)
        begin = r"\usepackage{booktabs,graphicx}\begin{document}"
        (tmp_path / f"paper{i}.tex").write_text(f"{start}{begin}{inputs}\\end{{document}}")
    for name in [*names, *(f"paper{i}" for i in range(len(PAPERS)))]:
        printed = typeset(name, tmp_path)
        assert "Overfull" not in printed, name
        assert "too large" not in printed, name


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX on this machine")
def test_booktabs_alone_is_enough_for_a_paper(tmp_path: Path) -> None:
    paper = (
        r"\documentclass{article}\usepackage{booktabs}"
        r"\begin{document}\input{table}after\end{document}"
    )
    (tmp_path / "paper.tex").write_text(paper)
    shutil.copy(GOLDEN / "dir-roberta_base-best.tex", tmp_path / "table.tex")
    for name in ("table", "paper"):
        printed = typeset(name, tmp_path)
        assert "Overfull" not in printed
        assert (tmp_path / f"{name}.pdf").exists()


# Names of models, devices and notes come from records, which may be somebody else's.
EVIL = (
    "<script>x</script>",
    "[x](javascript:x)",
    "![x](http://evil/x.png)",
    "a|b",
    "`x`",
    "x\n\n# y",
    "a\x1b[2J",
    "a\u202eb",
    "\\|",
    "[x]: javascript:x",
    "\\input{/etc/passwd}",
    "\\write18{x}",
    "1.0 [\\input{x}]",
    "1.0 [}]",
    "}$\\def\\x{",
    "%",
    "^^5cinput{x}",
)


@pytest.mark.parametrize("text", EVIL)
def test_nothing_in_a_cell_is_obeyed_by_markdown_or_latex(text: str) -> None:
    grid = Grid(
        text,
        [text, "y"],
        [[text, text], ["a", "b"]],
        text_columns=1,
        bold={(0, 1)},
        notes=[text, "said"],
    )
    lines = markdown(grid).split("\n")
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 7
    # A real renderer says what the text becomes: four cells, two heads, two notes, one bold.
    rendered = (
        pytest.importorskip("markdown_it")
        .MarkdownIt("commonmark")
        .enable("table")
        .render(markdown(grid))
    )
    assert [rendered.count(tag) for tag in ("<td", "<th>", "<li", "<strong")] == [4, 2, 2, 1]
    assert not any(tag in rendered for tag in ("<script", "<a ", "<img", "<h1", "<code"))
    # LaTeX may hold the commands of a harmless table, and those that spell a character.
    dull = replace(grid, caption="x", head=["x", "y"], rows=[["x", "x"]], notes=["x"])
    made, harmless = latex(grid, text), set(re.findall(r"\\[A-Za-z]+", latex(dull, "x")))
    commands = set(re.findall(r"\\[A-Za-z]+", made))
    assert commands - harmless <= {r"\textbackslash", r"\textasciicircum", r"\textbf"}
    # TeX reads ^^5c as a backslash before anything else.
    assert "^^" not in made
    assert all(line.isprintable() for line in made.split("\n"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX on this machine")
def test_latex_of_any_text_compiles(tmp_path: Path) -> None:
    rows = [[text, text] for text in EVIL if text.isascii()]
    grid = Grid("c", [rows[0][0], "y"], rows, text_columns=1, notes=[text for text, _ in rows])
    (tmp_path / "t.tex").write_text(latex_file(grid, "a\\input{x}", "test"))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
