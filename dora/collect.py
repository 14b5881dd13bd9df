"""`python -m dora.collect RESULTS …`: packs a study's records into one file."""

from __future__ import annotations

from dora.process.signals import outside

if __name__ == "__main__":
    # Before the other imports, which take a second or more: Ctrl-C then ends in one line as well.
    outside.watch()

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dora.errors import UserError
from dora.plain import counted
from dora.process.command import INCOMPLETE, command, path
from dora.records import artefacts, packed, run_json, study
from dora.records.directories import directories
from dora.records.finished import anything_left_out, left_out, read_runs
from dora.records.journals import JOURNALS
from dora.records.place import Place, place_of
from dora.records.run_json import NotARecord

DESCRIPTION = """\
Packs the records of all finished runs under RESULTS, and of those that diverged, into
RESULTS/runs.jsonl.gz: run.json, ranks.jsonl and metrics.jsonl, without weights, predictions and
logs. Tables, figures, reports and status read a folder with this file like one with the runs'
directories; dora.run and dora.tune take its runs as they ended, unless force=true. Where a run is
in both, the directory counts. A run that the file holds already stays in it until a finished
directory of that run takes its place. Nothing is removed. Several folders, as of several machines,
become one file with --to; a run that two of them have done is the first one's."""


def collect(results: Path | Sequence[Path], to: Path, blind: bool = False) -> str:
    """Packs the records of one or more folders into a file; returns a line on them.

    `blind`: as in `packed.write`. Raises UserError where a folder has none, where one would not be
    read back, and where a file would lose its hosts. Damaged records are named on standard error.
    """
    folders = [results] if isinstance(results, Path) else results
    if blind and to.exists() and any(to == folder / packed.NAME for folder in folders):
        raise UserError(f"{to} is there, and would lose hosts and folders: --to FILE names another")
    finished: dict[Place, Path] = {}
    held: dict[Place, Path] = {}
    diverged: dict[Place, Path] = {}
    there: set[Place] = set()
    # Named instead of passed over: a mistyped folder would be missing from a paper's supplement.
    empty: list[Path] = []
    for folder in reversed(folders):  # of equals the first one counts
        runs = directories(folder)
        there |= set(map(place_of, runs))
        done = {place_of(run["folder"]): run["folder"] for run in read_runs(folder)}
        # Without them a mean would be over the seeds that did not diverge, and nothing would say so.
        failed = {place_of(run): run for run in runs if study.look(run).state == "diverged"}
        # A sweep notes in new directories which runs it is going to train, and a directory may be
        # damaged: neither costs the file a run that it holds.
        kept = {place_of(run): run for run in packed.directories(folder)}
        if not (done or failed or kept):
            empty.append(folder)
        finished |= done
        diverged |= failed
        held |= kept
    if empty:
        raise UserError(*(f"no finished run under {folder / 'runs'}" for folder in reversed(empty)))
    # A finished run of one folder takes the place of one that diverged in another's file.
    chosen = diverged | held | finished

    def read(folder: Path) -> dict[str, str] | None:
        """Returns what is packed for a run: as it ended, else as an earlier file holds it."""
        if (texts := _as_it_ended(folder)) is None and (earlier := held.get(place_of(folder))):
            texts = packed.texts_of(earlier)
        return texts

    number = packed.write(to, [chosen[place] for place in sorted(chosen)], blind, read)
    left = len(there) - number
    line = f"{to}: {counted(number, 'run')}, {to.stat().st_size / 1e3:,.0f} kB"
    return f"{line}; left out: {left:,} not done or damaged" if left else line


def _as_it_ended(folder: Path) -> dict[str, str] | None:
    """Returns a run's texts, None if it was begun anew or removed since its record was believed.

    A journal that its record does not know is named, and gives None too.
    """
    texts = packed.texts_of(folder)
    if packed.origin(folder) is not None:  # nobody else's, and damaged records stay in their file
        return texts
    content = {name: text.encode(errors="surrogateescape") for name, text in texts.items()}
    try:
        run = run_json.parsed(content.get(run_json.NAME, b""))
        # A run that is begun anew changes its record first: while that is the same, all texts are.
        same = run_json.content(folder) == content[run_json.NAME]
    except (OSError, NotARecord):
        return None
    if not same or run["status"] not in ("done", "diverged"):
        return None
    for name in JOURNALS:
        if name in content and not artefacts.matches(run, name, content[name]):
            left_out(folder / name, "it is damaged or another's: run.json has another sha256")
            return None
    return texts


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
        "results", type=path, nargs="+", metavar="RESULTS", help="a folder that holds runs"
    )
    parser.add_argument(
        "--to",
        type=path,
        metavar="FILE",
        help="another file, written anew, for all folders; one that is there must be such a file",
    )
    parser.add_argument(
        "--anonymous",
        action="store_true",
        help="for a double-blind review: without hosts, and with folders by their last part",
    )
    given = parser.parse_args()
    refused = damaged = False
    for results in [given.results] if given.to else [[folder] for folder in given.results]:
        to = given.to or results[0] / packed.NAME
        try:
            if given.to:
                packed.check_free(to)
            print(collect(results, to, given.anonymous))
        except UserError as e:
            refused = True
            print(e.under("nothing packed:"), file=sys.stderr)
        except OSError as e:
            sys.exit(f"nothing packed: {e.filename or to}: {e.strerror}")
        damaged |= any(map(anything_left_out, results))
    if refused:
        sys.exit(UserError.exit_code)
    sys.exit(INCOMPLETE if damaged else 0)


if __name__ == "__main__":
    command(main)
