"""`python -m dora.tables`: finished runs as tables for a paper, from their run.json alone."""

from __future__ import annotations

import argparse

from dora.analysis.tables.files import files, holes, stale
from dora.cli.options import asked_for, writing
from dora.files import write_atomic
from dora.process.command import command


def main() -> None:
    """Prints and writes the tables.

    Exit 2 where there is nothing to show, 3 where cells are left out, 1 where the disk failed.
    """
    transpose = argparse.ArgumentParser(add_help=False)
    transpose.add_argument(
        "--transpose",
        action="store_true",
        help="scores and medians with tasks down and methods across",
    )
    asked = asked_for("dora.tables", __doc__, own=transpose)
    folder = asked.folder("tables")
    whole: dict[str, str] = {}
    for table in asked.tables:
        made = files(table, asked.results, holes(table, asked.seen))
        # Printed before anything is written: a full disk costs the files, not the result.
        print(next(iter(made.values())))
        whole |= made
    with writing():
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in whole.items():
            write_atomic(folder / name, text)
        old = [path for table in asked.tables for path in stale(table, folder, whole)]
        for path in old:
            path.unlink(missing_ok=True)  # another command may have been faster
    names = ", ".join(table.name for table in asked.tables)
    print(
        f"written to {folder}: {names}, each as .md and .csv, a .tex for each of its tables, "
        "-differences.csv, and -runs.csv with a row a run"
    )
    if old:
        print(f"removed, no longer made: {', '.join(path.name for path in old)}")
    asked.end()


if __name__ == "__main__":
    command(main)
