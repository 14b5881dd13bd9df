"""`python -m dora.plots`: the figures of finished runs: PDF, SVG, PNG, and their numbers as CSV."""

from __future__ import annotations

from dora.process.signals import outside

if __name__ == "__main__":
    # Before the other imports, which take a second or more: Ctrl-C then ends in one line as well.
    outside.watch()

import argparse
from pathlib import Path

from dora.analysis.figures.files import svg_names, write, write_by_length
from dora.analysis.figures.style import WIDTHS, require_matplotlib
from dora.analysis.studies import made_by
from dora.cli.options import Asked, asked_for, writing
from dora.errors import UserError
from dora.process.command import command


def main() -> None:
    """Writes the figures of every table.

    Exit 2 where there is nothing to draw from, or where files of another study would be
    overwritten, 3 where cells are left out, 1 where the disk failed.
    """
    # Matplotlib is an optional dependency: it is missed before runs are read, not after.
    width = argparse.ArgumentParser(add_help=False)
    width.add_argument(
        "--width",
        choices=list(WIDTHS),
        help="for print: 3.03 inches wide, a column of the ACL's two, or 6.3, the page (default: as wide as "
        "the panels)",
    )
    asked = asked_for("dora.plots", __doc__, require_matplotlib, width)
    folder = asked.folder("figures")
    asked.refuse_overwriting(svg_names(asked.tables))
    made = made_by("plots", asked.results)
    drawn = False
    for table in asked.tables:
        with writing():
            names = write(table, folder, asked.given.width, made)
        _print(folder, names)
        drawn |= bool(names)
    with writing():
        names = write_by_length(asked.tables, folder, asked.given.width, made)
    _print(folder, names)
    if not (drawn or names):
        raise UserError(_nothing(asked))
    asked.end()


def _print(folder: Path, names: list[str]) -> None:
    for name in names:
        print(folder / f"{name}.png")


def _nothing(asked: Asked) -> str:
    """Returns the message for runs that no figure can be drawn from."""
    needs = "a figure needs a run with a budget, a run's metrics.jsonl, or two methods to compare"
    if not any(table.averaged for table in asked.tables):
        apart = dict.fromkeys(t.view.title(task) for t in asked.tables for task in t.apart)
        needs += f", on a task that averages count ({', '.join(apart)}: with --average glue)"
    return UserError(needs, *asked.left_out).under("nothing to draw:")


if __name__ == "__main__":
    command(main)
