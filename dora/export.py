"""`python -m dora.export RUN_DIR`: a finished run's best weights for others, with a model card."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dora.errors import UserError
from dora.process.command import command
from dora.sharing.exporting import export


def main() -> None:
    """Exports one run. Exits 0 if written, 1 if the disk failed, 2 if it cannot be exported so."""
    parser = argparse.ArgumentParser(
        prog="python -m dora.export",
        description="A finished run's best evaluation as a PEFT adapter or a whole model, "
        "with a model card.",
        epilog="exit code: 0 written, 1 the disk failed, 2 it cannot be exported as asked.",
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN_DIR", help="a run's directory, the one that holds run.json"
    )
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="a new folder (default: RUN_DIR/export)"
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="a whole model for plain Transformers, the adapter added to its weights; "
        "a method that trains the backbone's own weights exports this anyway",
    )
    parser.add_argument(
        "--base",
        type=Path,
        metavar="FOLDER",
        help="the base model's folder, where it is not found or has moved",
    )
    given = parser.parse_args()
    # Inside the run's directory, where no tool looks for a run: exports are no records.
    to = given.to or given.run / "export"
    try:
        export(given.run, to, given.merge, given.base)
    except UserError as e:
        # Several problems are a list, which begins on a line of its own.
        print("nothing exported:", e, sep="\n" if "\n" in str(e) else " ", file=sys.stderr)
        sys.exit(e.exit_code)
    except OSError as e:
        # An OSError of a file already open has no name; a text as exit code means 1.
        sys.exit(f"nothing exported: {e.filename or to}: {e.strerror}")
    print(f"written: {to}; its README.md says what it is and how to load it")


if __name__ == "__main__":
    command(main)
