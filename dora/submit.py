"""`python -m dora.submit RUN_DIR…`: the runs' test predictions as one zip for the GLUE server."""

from __future__ import annotations

from dora.process.signals import outside

if __name__ == "__main__":
    # Before the other imports, which take a second or more: Ctrl-C then ends in one line as well.
    outside.watch()

import argparse
import sys
from pathlib import Path

from dora.errors import UserError
from dora.process.command import INCOMPLETE, command, path
from dora.sharing.leaderboard import FILES
from dora.sharing.submission import submit


def _parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m dora.submit",
        description="The runs' test predictions as one zip for the GLUE server: eleven TSVs, AX "
        "from the MNLI run. A pattern of the shell chooses runs: "
        "python -m dora.submit results/runs/hub/*/roberta_base/dora/r8/*/s1",
        epilog="exit code: 0 all eleven files, 3 some are missing, 1 the disk failed, 2 nothing "
        "was written.",
    )
    add = parser.add_argument
    add(
        "runs",
        type=path,
        nargs="+",
        metavar="RUN_DIR",
        help="directories of finished runs, one a task",
    )
    add(
        "--to",
        type=path,
        default=Path("submission.zip"),
        metavar="ZIP",
        help="default: submission.zip",
    )
    add(
        "--best",
        action="store_true",
        help="of several runs of a task, the one with the best development score",
    )
    add(
        "--score",
        choices=["best", "last"],
        default="best",
        help="predictions of a run's best evaluation (default), or of its last",
    )
    add(
        "--fill",
        action="store_true",
        help="a constant placeholder for each missing file: the server wants all eleven",
    )
    return parser


def main() -> None:
    """Writes one zip of the runs' test predictions.

    Exits 0 with all eleven files, 3 with some missing, 1 if the disk failed, 2 with nothing
    written.
    """
    # Shells expand the pattern in the help; one that matches nothing arrives as it was typed and
    # is reported as a folder without a run.
    given = _parser().parse_args()
    try:
        lines, held = submit(given.runs, given.to, given.score, given.best, given.fill)
    except UserError as e:
        raise UserError(e.under("nothing written:")) from e
    except OSError as e:
        # An OSError of a file already open has no name; a text as exit code means 1.
        sys.exit(f"nothing written: {e.filename or given.to}: {e.strerror}")
    print(*lines, f"written: {given.to}, {held} of {len(FILES)} files", sep="\n")
    # The zip is right as far as it goes, and the server refuses it.
    if held < len(FILES):
        print("the server wants all of them: train what is missing, or add --fill for placeholders")
        sys.exit(INCOMPLETE)


if __name__ == "__main__":
    command(main)
