"""A table as text: what each cell becomes in Markdown and on a terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from harmful import TEXTS, table_of

from dora.analysis.tables.layout import Grid, markdown, plain


def test_markdown_sets_what_a_grid_holds() -> None:
    grid = Grid(
        "a_b",
        ["x", "y [95 %]"],
        [["m_1", "-0.5 ± 1"], ["–", "82.5 ± 1.0*§ (n = 2/3)"], ["z", "9.0 ± 1.0*"]],
        text_columns=1,
        bold={(1, 1)},
        underlined={(2, 1)},
        notes=["50 %"],
    )
    assert markdown(grid).splitlines() == [
        "| x   | y [95 %]                    |",
        "| --- | --------------------------- |",
        "| m_1 | -0.5 ± 1                    |",
        "| –   | **82.5 ± 1.0\\*§ (n = 2/3)** |",
        "| z   | _9.0 ± 1.0*_                |",
        "",
        "- 50 %",
        "- _underlined_ cells are italic here, or between underscores",
    ]


def test_marks_are_bold_and_italic_where_markdown_is_rendered() -> None:
    cells = ["90.6 ± 1.0‡", "53.2 ± 0.8*", "-0.5 [-1.0, +0.5]", "67.0 ± 1.4§ (n = 2/3)", "9.0*§"]
    shown = [[text, text] for text in cells]
    places = range(len(cells))
    grid = Grid(
        "c",
        ["x", "y"],
        shown,
        bold={(i, 0) for i in places},
        underlined={(i, 1) for i in places},
    )
    rendered = (
        pytest.importorskip("markdown_it")
        .MarkdownIt("commonmark")
        .enable("table")
        .render(markdown(grid))
    )
    # One more of each kind of mark would be a star or an underscore that was obeyed.
    assert rendered.count("<strong>") == len(cells)
    assert rendered.count("<em>") == len(cells) + 1  # the note
    assert "_" not in rendered


def test_plain_text_is_aligned_and_shows_what_it_holds() -> None:
    grid = Grid("", ["name", "n", "of"], [["a", "1,200", ""], ["b\x1b[2J", "3", "4"]])
    assert plain(grid).split("\n") == [
        "name      n      of",
        "a         1,200",
        "b\\x1b[2J  3      4",
    ]


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_in_a_cell_is_obeyed_by_markdown(text: str) -> None:
    grid = replace(table_of(text), underlined=set())
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
