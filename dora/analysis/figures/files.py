"""The figures of a table and their files: PDF, SVG, PNG, and the numbers drawn as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dora.analysis.figures import lengths
from dora.analysis.figures.costs import score_by_cost
from dora.analysis.figures.differences import paired_differences
from dora.analysis.figures.points import Drawn
from dora.analysis.figures.scores import score_by_budget
from dora.analysis.figures.style import images, in_print, printed
from dora.analysis.figures.training import final_ranks, learning_curves, rank_paths
from dora.analysis.table import AVERAGE, Table
from dora.analysis.tables.layout import as_csv
from dora.files import write_atomic

_HIGHEST = 8.0  # inches: a page's text less a caption


def _task_alone(draw: Callable[[Table], Drawn | None]) -> Callable[[Table, str], Drawn | None]:
    """Returns the `part` of a figure that has no average, and whose numbers are a task's own."""

    def part(table: Table, name: str) -> Drawn | None:
        """Draws the table of one of its tasks."""
        cells = {
            row: {name: by_task[name]} for row, by_task in table.cells.items() if by_task.get(name)
        }
        return draw(replace(table, cells=cells))

    return part


@dataclass(frozen=True)
class Kind:
    """One kind of figure. `draw` and `part` return None where a table has nothing for them.

    `part`: draws one task, or `AVERAGE`, where the whole is higher than a page; a figure whose parts
    would be no lower has none.
    """

    draw: Callable[[Table], Drawn | None]
    part: Callable[[Table, str], Drawn | None] | None = None


# The name is the end of the files' names.
FIGURES = {
    "score-by-budget": Kind(score_by_budget, score_by_budget),
    "differences": Kind(paired_differences, paired_differences),
    "score-by-cost": Kind(score_by_cost),
    "final-ranks": Kind(final_ranks, _task_alone(final_ranks)),
    "rank-paths": Kind(rank_paths, _task_alone(rank_paths)),
    "learning-curves": Kind(learning_curves, _task_alone(learning_curves)),
}


def svg_names(tables: Sequence[Table]) -> Iterator[list[str]]:
    """Yields the names that SVG files of each table, and those by length, may have."""
    for table in tables:
        parts = ["", *(f"-{name}" for name in (*table.tasks, AVERAGE))]
        yield [f"{table.name}-{name}{part}.svg" for name in FIGURES for part in parts]
    for group in lengths.groups(tables):
        yield [f"{_name_by_length(group)}.svg"]


def write(
    table: Table, folder: Path, width: str | None = None, made_by: str | None = None
) -> list[str]:
    """Draws all figures of a table into `folder`; `width`: one of style.WIDTHS, for print.

    `made_by`: the command and its study, which the SVG files name. A figure for print that is higher
    than a page is one for each task, and one for the average, instead. Returns the names of those
    that there was something to draw for.
    """
    names = []
    for name, kind in FIGURES.items():
        with printed(width):
            for part, drawn in _parts(kind, table):
                names.append(f"{table.name}-{name}{part}")
                _write(drawn, folder / names[-1], made_by)
    return names


def _parts(kind: Kind, table: Table) -> Iterator[tuple[str, Drawn]]:
    """Yields a figure with "", or its parts with the ends of their names, such as "-rte"."""
    drawn = kind.draw(table)
    if drawn is None:
        return
    low = not in_print() or drawn[0].get_figheight() <= _HIGHEST
    if low or kind.part is None or len(table.tasks) == 1:
        yield "", drawn
        return
    for name in (*table.tasks, AVERAGE):
        part = kind.part(table, name)
        if part is not None:
            yield f"-{name}", part


def write_by_length(
    tables: Sequence[Table],
    folder: Path,
    width: str | None = None,
    made_by: str | None = None,
) -> list[str]:
    """Draws score against steps for each data source and model of which there are several lengths.

    Returns the names of the figures.
    """
    names = []
    for group in lengths.groups(tables):
        with printed(width):
            drawn = lengths.score_by_length(group)
        if drawn is not None:
            names.append(_name_by_length(group))
            _write(drawn, folder / names[-1], made_by)
    return names


def _name_by_length(group: Sequence[Table]) -> str:
    return f"{replace(group[0], steps=None).name}-{lengths.NAME}"


def _write(drawn: Drawn, place: Path, made_by: str | None) -> None:
    """Writes a figure in every format and its numbers, as `place` with their endings."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for ending, data in images(drawn[0], made_by).items():
        write_atomic(place.with_name(f"{place.name}.{ending}"), data)
    write_atomic(place.with_name(f"{place.name}.csv"), as_csv(drawn[1]))
