"""`python -m dora.plots`: the figures of finished runs: PDF, SVG, PNG, and their numbers as CSV."""

from __future__ import annotations

import argparse

from dora.analysis.figures.files import write, write_by_length
from dora.analysis.figures.style import WIDTHS, require_matplotlib
from dora.cli.options import asked_for, writing
from dora.process.command import command


def main() -> None:
    """Writes the figures of every table.

    Exit 2 where there is nothing to draw from, 3 where cells are left out, 1 where the disk failed.
    """
    # Matplotlib is an optional dependency: it is missed before runs are read, not after.
    width = argparse.ArgumentParser(add_help=False)
    width.add_argument(
        "--width",
        choices=list(WIDTHS),
        help="for print: 3.3 inches wide, a column of two, or 6.8, the page (default: as wide as "
        "the panels)",
    )
    asked = asked_for("dora.plots", __doc__, require_matplotlib, width)
    folder = asked.folder("figures")
    for table in asked.tables:
        with writing():
            names = write(table, folder, asked.given.width)
        for name in names:
            print(folder / f"{name}.png")
    with writing():
        names = write_by_length(asked.tables, folder, asked.given.width)
    for name in names:
        print(folder / f"{name}.png")
    asked.end()


if __name__ == "__main__":
    command(main)
