"""A table as LaTeX: what each cell becomes, and papers that every table of a study fits into."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from harmful import TEXTS, table_of

from dora.analysis.grouping import tables
from dora.analysis.tables.files import files
from dora.analysis.tables.latex import latex, latex_file
from dora.analysis.tables.latex_cells import column, escaped
from dora.analysis.tables.layout import Grid
from dora.analysis.view import View
from dora.data.tasks import TASKS
from dora.records.finished import read_runs
from record_files import large_study, write_run
from runs import change_record

GOLDEN = Path(__file__).parents[2] / "golden"
RESULTS = Path(__file__).parents[3] / "results"


def has_tex() -> bool:
    """Tells whether pdflatex is here with siunitx, which smaller installations lack."""
    if shutil.which("pdflatex") is None or shutil.which("kpsewhich") is None:
        return False
    return (
        subprocess.run(["kpsewhich", "siunitx.sty"], capture_output=True, check=False).returncode
        == 0
    )


needs_tex = pytest.mark.skipif(not has_tex(), reason="no TeX with siunitx on this machine")


def test_numbers_align_at_their_points_with_all_that_belongs_to_them_small() -> None:
    cells = ["82.5 ± 1.0", "9.1 ± 0.3*§ (n = 2/3)", "–", "100.0", "83.0 ± 2.0⋄ (corr.)"]
    aligned = column(cells, words=False)
    assert [aligned.cell(text) for text in cells] == [
        r"82.5{\sd{1.0}}",
        r"9.1{\spread{$\pm$0.3}{$*$$\mathsection$ n=2/3}}",
        "{--}",
        "100.0",
        r"83.0{\spread{$\pm$2.0}{$\diamond$ corr.}}",
    ]
    # Room for three digits before the point, one behind it, and the longest of what follows.
    assert aligned.spec.startswith("S[table-format=3.1{")
    assert r"\spread{$\pm$0.0}{$*$$\mathsection$ n=0/0}" in aligned.spec


def test_intervals_counts_and_signs_are_numbers_too() -> None:
    cells = ["-3.6 [-6.5, +0.8]", "+0.4 [+0.1, +0.7]"]
    aligned = column(cells, words=False)
    assert aligned.cell(cells[0]) == r"-3.6{\spread{[$-$6.5, +0.8]}{}}"
    # A minus is the widest sign.
    assert aligned.spec.startswith("S[table-format=-1.1{")
    assert column(["82.0 (3)"], words=False).cell("82.0 (3)") == r"82.0{\spread{(3)}{}}"
    assert column(["<0.001", "0.044"], words=False).cell("<0.001") == "{$<$}0.001"


def test_the_best_is_bold_and_a_line_is_under_the_number_alone() -> None:
    aligned = column(["82.5 ± 1.0"], words=False)
    assert aligned.cell("82.5 ± 1.0", bold=True) == r"\bfseries 82.5{\sd{1.0}}"
    assert aligned.cell("82.5 ± 1.0", underlined=True) == r"82.5{\under{82.5}\sd{1.0}}"


def test_a_column_of_anything_else_is_text() -> None:
    sizes = ["all 125M", "0.331M to 0.332M", "1,200 to 2,000", "–"]
    text = column(sizes, words=False)
    assert text.spec.startswith("r")
    # One unit for both numbers, and a dash, which is narrower.
    assert [text.cell(c) for c in sizes] == ["all 125M", "0.331--0.332M", "1,200--2,000", "--"]
    assert column(["900k to 1.1M"], words=False).cell("900k to 1.1M") == "900k to 1.1M"
    assert column(["LoRA †c"], words=True).cell("LoRA †c") == r"LoRA\high{$\dagger$\,c}"
    # In a table with methods across, one size stands among scores.
    mixed = column(["0.3M", "82.5 ± 1.0", "9.5 ± 0.1"], words=False)
    assert (mixed.spec[0], mixed.cell("0.3M")) == ("S", "{0.3M}")
    # And beside the one score of a table of one task.
    assert column(["0.3M", "82.5 ± 1.0"], words=False).spec[0] == "S"
    assert column(["0.3M", "0.2M", "82.5"], words=False).spec[0] == "r"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a_b & 50 % #1 $ {x}", r"a\_b \& 50 \% \#1 \$ \{x\}"),
        ("-0.5, 2024-01-31", "$-$0.5, 2024-01-31"),
        # TeX would print a dash, and one quotation mark of two.
        ("see --score last", "see -{}-score last"),
        ("''x``", "'{}'x`{}`"),
        ("Mañé, Škoda", "Mañé, Škoda"),
        ("α 中", "[U+03B1] [U+4E2D]"),
        ("p ≥ 0.05 ± 1", r"p $\geq$ 0.05 $\pm$ 1"),
    ],
)
def test_any_text_is_shown_as_it_is(text: str, shown: str) -> None:
    assert escaped(text) == shown


def grid_of(columns: int, rows: int = 2) -> Grid:
    """Returns a table of a name and `columns` scores."""
    head = ["method", *(f"T{j} acc" for j in range(columns))]
    lines = [[f"m{i}", *["82.5 ± 1.0"] * columns] for i in range(rows)]
    units = {j + 1: "acc" for j in range(columns)}
    return Grid("c", head, lines, text_columns=1, units=units, notes=["said once"])


def test_a_wide_table_spans_both_columns_and_a_narrow_one_does_not() -> None:
    assert r"\begin{table}[tbp]" in latex(grid_of(2), "l")
    assert r"\begin{table*}[tbp]" in latex(grid_of(9), "l")


def test_metrics_stand_in_a_second_row_of_the_head() -> None:
    lines = [line.strip() for line in latex(grid_of(2), "l").splitlines()]
    first = next(line for line in lines if "T0" in line)
    second = lines[lines.index(first) + 1]
    assert re.sub(" +", " ", first) == r"method & {T0} & {T1} \\"
    assert re.sub(" +", " ", second) == r"& {acc} & {acc} \\"


def test_a_table_longer_than_a_page_is_set_in_parts() -> None:
    rows = [[str(i), "1"] for i in range(90)]
    text = latex(
        Grid("c", ["x", "y"], rows, bold={(31, 0)}, rules={30, 45}, notes=["said once"]), "l"
    )
    # A page holds 34 rows; 90 are three parts of equal length, not 34, 34 and 22.
    parts = text.split(r"\end{table}")[:-1]
    assert [part.count(r"& 1") for part in parts] == [30, 30, 30]
    assert [part.count(r"\midrule") for part in parts] == [1, 2, 1]  # one below the head
    assert [part.count("said once") for part in parts] == [0, 0, 1]
    assert r"\caption{c (2 of 3)}\smallskip" in parts[1]
    assert r"\textbf{31}" in parts[1]
    # LaTeX warns of a label that is given twice.
    assert text.count(r"\label{tab:l}") == 1


def test_a_table_wider_than_a_page_is_set_in_parts_with_the_names_in_each() -> None:
    grid = replace(grid_of(60), bold={(1, 60)}, underlined={(1, 1)})
    parts = latex(grid, "l").split(r"\end{table*}")[:-1]
    assert len(parts) == 3
    assert all(part.count("  m1 ") == 1 for part in parts)
    # Every column is in one part, and parts are about equally wide.
    heads = [re.findall(r"\{(T\d+)\}", part) for part in parts]
    assert [head for some in heads for head in some] == [f"T{j}" for j in range(60)]
    assert max(map(len, heads)) - min(map(len, heads)) <= 1
    assert [part.count(r"\bfseries") for part in parts] == [0, 0, 1]
    assert [part.count(r"{\under{") for part in parts] == [1, 0, 0]


def test_a_spare_column_is_replaced_by_its_note_where_the_table_is_wide() -> None:
    def with_budget(columns: int) -> str:
        """Returns a table whose second column may be left out."""
        grid = grid_of(columns)
        head = ["method", "budget", *grid.head[1:]]
        rows = [[row[0], "r8", *row[1:]] for row in grid.rows]
        units = {j + 1: unit for j, unit in grid.units.items()}
        spare = {1: "all at r8"}
        return latex(
            replace(grid, head=head, rows=rows, units=units, text_columns=2, spare=spare), "l"
        )

    assert "budget" in with_budget(4)
    assert "all at r8" not in with_budget(4)
    assert "budget" not in with_budget(10)
    assert "  all at r8." in with_budget(10)


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_in_a_cell_is_obeyed_by_latex(text: str) -> None:
    grid = table_of(text)
    # LaTeX may hold the commands of a harmless table, and those that spell a character.
    dull = replace(grid, caption="x", head=["x", "y"], rows=[["x", "x"], ["a", "b"]], notes=["x"])
    made, harmless = latex(grid, text), set(re.findall(r"\\[A-Za-z]+", latex(dull, "x")))
    commands = set(re.findall(r"\\[A-Za-z]+", made))
    assert commands - harmless <= {r"\textbackslash", r"\textasciicircum"}
    # TeX reads ^^5c as a backslash before anything else.
    assert "^^" not in made
    assert all(line.isprintable() for line in made.split("\n"))


# Documents with the widths of text that papers have: acl.sty's geometry and font, and plain ones.
PAPERS = {
    "acl": r"\documentclass[11pt,twocolumn,a4paper]{article}"
    r"\usepackage[margin=2.5cm,columnsep=0.6cm]{geometry}\usepackage{times}",
    "one-column": r"\documentclass{article}",
    "two-columns": r"\documentclass[twocolumn]{article}",
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


def fonts(name: str, folder: Path) -> str:
    """Returns what pdffonts says of NAME.pdf; skips the test where it is not installed."""
    if shutil.which("pdffonts") is None:
        pytest.skip("no pdffonts on this machine")
    done = subprocess.run(
        ["pdffonts", f"{name}.pdf"], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def real_scores(into: Path) -> None:
    """Writes the committed studies' scores as eight tasks of RoBERTa-base.

    15 methods at one budget, full fine-tuning, a hole, a run that predicts one class, and the
    published rows of that backbone: the widest and longest table of scores that a paper has.
    """
    tasks = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte")
    runs = [r for study in ("family", "methods") for r in read_runs(RESULTS / f"study_{study}")]
    for i, task in enumerate(tasks):
        for run in runs:
            method, budget, _, seed = run["folder"].parts[-4:]
            if (method, task, seed) == ("sora", "rte", "s2"):
                continue
            score = run["results"]["best"]["accuracy"] - 0.03 * i
            result = {"step": 5, TASKS[task].metrics[0]: score}
            result |= {"degenerate": "all 0" if (method, task) == ("fedit", "cola") else None}
            target = into / "runs" / "dir" / task / "roberta_base" / method / budget
            # LoRA's runs are in both studies.
            if not (target / "abcd1234" / seed).exists():
                path = write_run(
                    into,
                    method,
                    int(seed[1:]),
                    None,
                    task=task,
                    budget=budget,
                    model="roberta_base",
                    params=run["params"]["adapter_end"],
                    results={"best": result, "last": result},
                )
                # The title, by which tables name a method.
                change_record(path, **({"method": run["method"]} if "method" in run else {}))


@needs_tex
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["real", "four budgets", "transposed"])
def test_no_box_is_overfull_and_no_letter_a_bitmap_in_any_class(kind: str, tmp_path: Path) -> None:
    if kind == "four budgets":
        large_study(tmp_path, 100)
    else:
        real_scores(tmp_path)
    (table,) = tables(read_runs(tmp_path), View(transposed=kind == "transposed"))
    made = {k: v for k, v in files(table, tmp_path, []).items() if k.endswith(".tex")}
    names = [name.removesuffix(".tex") for name in made]
    for name in names:
        (tmp_path / f"{name}.tex").write_text(made[f"{name}.tex"])
    for paper, start in PAPERS.items():
        inputs = "".join(f"\\input{{{name}}}text\\clearpage " for name in names)
        begin = r"\usepackage{booktabs,siunitx}\begin{document}"
        (tmp_path / f"{paper}.tex").write_text(f"{start}{begin}{inputs}\\end{{document}}")
    # Each file compiles alone, too; of one study that is enough.
    for name in [*(names if kind == "real" else []), *PAPERS]:
        printed = typeset(name, tmp_path)
        assert "Overfull" not in printed, name
        assert "too large" not in printed, name
        assert "Type 3" not in fonts(name, tmp_path), name


@needs_tex
@pytest.mark.slow
def test_no_letter_of_a_table_is_smaller_than_six_points(tmp_path: Path) -> None:
    if shutil.which("pdftohtml") is None:
        pytest.skip("no pdftohtml on this machine")
    shutil.copy(GOLDEN / "dir-roberta_base-best.tex", tmp_path / "table.tex")
    for paper, start in PAPERS.items():
        text = start + r"\usepackage{booktabs,siunitx}\pagestyle{empty}\begin{document}"
        (tmp_path / f"{paper}.tex").write_text(text + r"\input{table}\end{document}")
        typeset(paper, tmp_path)
        # -zoom 3, its most: sizes in thirds of a point, rounded.
        done = subprocess.run(
            ["pdftohtml", "-xml", "-zoom", "3", "-stdout", "-i", f"{paper}.pdf"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        sizes = {int(size) / 3 for size in re.findall(r'<fontspec [^>]*size="(\d+)"', done.stdout)}
        assert sizes, done.stdout[:300]
        assert min(sizes) == 6, (paper, sorted(sizes))


@needs_tex
@pytest.mark.slow
def test_booktabs_and_siunitx_are_enough_for_a_paper(tmp_path: Path) -> None:
    paper = (
        r"\documentclass{article}\usepackage{booktabs,siunitx}"
        r"\begin{document}\input{table}after\end{document}"
    )
    (tmp_path / "paper.tex").write_text(paper)
    shutil.copy(GOLDEN / "dir-roberta_base-best.tex", tmp_path / "table.tex")
    for name in ("table", "paper"):
        printed = typeset(name, tmp_path)
        assert "Overfull" not in printed
        assert (tmp_path / f"{name}.pdf").exists()


@needs_tex
@pytest.mark.slow
def test_latex_of_any_text_compiles(tmp_path: Path) -> None:
    rows = [[text, text] for text in (*TEXTS, "α 中 é \"x\" ''y``")]
    grid = Grid(
        "c",
        [rows[0][0], "y"],
        rows,
        text_columns=1,
        bold={(0, 1)},
        underlined={(1, 1)},
        notes=[text for text, _ in rows],
    )
    (tmp_path / "t.tex").write_text(latex_file(grid, "a\\input{x}", "test"))
    typeset("t", tmp_path)
