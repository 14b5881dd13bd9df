"""`python -m dora.tables`: finished runs as tables for a paper, from their run.json alone."""

from __future__ import annotations

from dora.process.signals import outside

if __name__ == "__main__":
    # Before the other imports, which take a second or more: Ctrl-C then ends in one line as well.
    outside.watch()

import argparse
from collections.abc import Iterable

from dora.analysis.other_runs import holes
from dora.analysis.tables.files import files, latex_names, stale
from dora.cli.options import asked_for, writing
from dora.files import write_atomic
from dora.process.command import command


def main() -> None:
    """Prints and writes the tables.

    Exit 2 where there is nothing to show, or where files of another study would be overwritten, 3
    where cells are left out, 1 where the disk failed.
    """
    transpose = argparse.ArgumentParser(add_help=False)
    transpose.add_argument(
        "--transpose",
        action="store_true",
        help="scores and medians with tasks down and methods across",
    )
    asked = asked_for("dora.tables", __doc__, own=transpose)
    folder = asked.folder("tables")
    asked.refuse_overwriting(latex_names(table) for table in asked.tables)
    asked.note_searches()
    whole: dict[str, str] = {}
    written = []
    for table in asked.tables:
        made = files(table, asked.results, holes(table, asked.seen))
        # Printed before anything is written: a full disk costs the files, not the result.
        print(next(iter(made.values())))
        whole |= made
        written.append(_named(table.name, made))
    with writing():
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in whole.items():
            write_atomic(folder / name, text)
        old = [
            path for table in asked.tables for path in stale(table, asked.results, folder, whole)
        ]
        for path in old:
            path.unlink(missing_ok=True)  # another command may have been faster
    print(f"written to {folder}: {'; '.join(written)}")
    if old:
        print(f"removed, no longer made: {', '.join(path.name for path in old)}")
    asked.end()


def _named(name: str, made: Iterable[str]) -> str:
    """Returns a table's files: `NAME as .md, .csv, -runs.csv, and 4 .tex`."""
    ends = [file.removeprefix(name) for file in made]
    others = [end for end in ends if not end.endswith(".tex")]
    return f"{name} as {', '.join(others)}, and {len(ends) - len(others)} .tex"


if __name__ == "__main__":
    command(main)
