"""`python -m dora.collect RESULTS …`: packs a study's records into one file, for a supplement."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dora.analysis.finished import anything_left_out, read_runs
from dora.cli.options import LEFT_OUT
from dora.errors import UserError
from dora.plain import counted
from dora.process.command import command
from dora.records import packed, study
from dora.records.place import place_of

DESCRIPTION = """\
Packs the records of all finished runs under RESULTS, and of those that diverged, into
RESULTS/runs.jsonl.gz: run.json, ranks.jsonl and metrics.jsonl, without weights, predictions and logs. Tables, figures, reports and
status read a folder with this file like one with the runs' directories; dora.run and dora.tune take
its runs as done, unless force=true. Where a run is in both, the directory counts. A run that the
file holds already stays in it until a finished directory of that run takes its place. Nothing is
removed."""


def collect(results: Path, to: Path, blind: bool = False) -> str:
    """Packs one folder's records; returns a line on them. `blind`: as in `packed.write`.

    Raises UserError where there are none, where one would not be read back, and where a file would
    lose its hosts. Damaged records are named on standard error.
    """
    if blind and to == results / packed.NAME and to.exists():
        raise UserError(f"{to} is there, and would lose hosts and folders: --to FILE names another")
    finished = {place_of(run["folder"]): run["folder"] for run in read_runs(results)}
    # Without them a mean would be over the seeds that did not diverge, and nothing would say so.
    diverged = {
        place_of(folder): folder
        for folder in study.directories(results)
        if study.look(folder).state == "diverged"
    }
    # A sweep notes in new directories which runs it is going to train, and a directory may be
    # damaged: neither costs the file a run that it holds.
    held = {place_of(folder): folder for folder in packed.directories(results)}
    held = diverged | held | finished
    if not held:
        raise UserError(f"no finished run under {results / 'runs'}")
    number = packed.write(to, [held[place] for place in sorted(held)], blind)
    left = len(study.directories(results)) - number
    line = f"{to}: {counted(number, 'run')}, {to.stat().st_size / 1e3:,.0f} kB"
    return f"{line}; left out: {left:,} not done or damaged" if left else line


def main() -> None:
    """Packs every folder named.

    Exits 0 if all are written, 3 if damaged records were left out, 2 if a folder has nothing to
    pack, and at once with 1 if the disk failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m dora.collect",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit code: 0 written, 3 written without damaged records, which are named (those that "
        "the file held stay in it), 2 a folder has nothing that could be packed, 1 the disk failed.",
    )
    parser.add_argument(
        "results", type=Path, nargs="+", metavar="RESULTS", help="a folder that holds runs"
    )
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="for one folder: another file, written anew"
    )
    parser.add_argument(
        "--anonymous",
        action="store_true",
        help="for a double-blind review: without hosts, and with folders by their last part",
    )
    given = parser.parse_args()
    if given.to and len(given.results) > 1:
        parser.error("--to takes one folder of results")
    refused = damaged = False
    for results in given.results:
        to = given.to or results / packed.NAME
        try:
            print(collect(results, to, given.anonymous))
        except UserError as e:
            refused = True
            print(e.under("nothing packed:"), file=sys.stderr)
        except OSError as e:
            sys.exit(f"nothing packed: {e.filename or to}: {e.strerror}")
        damaged |= anything_left_out(results)
    sys.exit(UserError.exit_code if refused else LEFT_OUT if damaged else 0)


if __name__ == "__main__":
    command(main)
