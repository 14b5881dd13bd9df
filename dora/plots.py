"""`python -m dora.plots`: the figures of finished runs: PDF, PNG, and the numbers drawn as CSV."""

from __future__ import annotations

from dora.analysis.figures import write
from dora.analysis.style import require_matplotlib
from dora.cli.options import asked_for, writing
from dora.process.command import command


def main() -> None:
    """Writes the figures of every table.

    Exit 2 where there is nothing to draw from, 3 where cells are left out, 1 where the disk failed.
    """
    # Matplotlib is an optional dependency: it is missed before runs are read, not after.
    asked = asked_for("dora.plots", __doc__, require_matplotlib)
    folder = asked.results / "figures"
    for table in asked.tables:
        with writing():
            names = write(table, folder)
        for name in names:
            print(folder / f"{name}.png")
    asked.end()


if __name__ == "__main__":
    command(main)
