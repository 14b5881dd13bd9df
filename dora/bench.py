"""`python -m dora.bench`: a training step's cost, beside the floor, PEFT and the Trainer."""

from __future__ import annotations

from dora.process.signals import outside

if __name__ == "__main__":
    # Before the other imports, which take a second or more: Ctrl-C then ends in one line as well.
    outside.watch()

import argparse
import importlib.util
import os
import sys
import tempfile
import warnings
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from dora.files import to_json, write_atomic
from dora.preparing.precision import automatic
from dora.process.command import command
from dora.records.provenance import provenance
from dora.timing import options
from dora.timing.candidates import CONTENDERS
from dora.timing.measure import measure, memory_here, peak_memory, table
from dora.timing.setting import Setting
from dora.timing.startup import startup
from dora.timing.whole_run import Runs, runs_table, whole_runs


def main() -> None:
    """Measures, prints the tables and writes them with machine and versions as JSON."""
    parser = options.parser()
    given = parser.parse_args()
    # Before anything is measured, which may take an hour.
    if found_wrong := options.problems(given):
        parser.error("; ".join(found_wrong))
    # As a run resolves it, so that file, tables and records name the precision itself.
    given.precision = [
        automatic(given.device) if name == "auto" else name for name in given.precision
    ]
    warnings.filterwarnings("ignore")  # PEFT's and the Trainer's own, between the tables
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # `peak_memory` gives one value for each option, so that there is one setting.
    if given.memory_of:
        print(memory_here(options.settings(given)[0], given.memory_of))
        return
    # The two that we are compared with: `provenance` names what a run of ours needs.
    versions = {
        p: metadata.version(p) for p in ("peft", "accelerate") if importlib.util.find_spec(p)
    }
    # The load tells a reader whether the machine was busy with something else.
    found: dict[str, Any] = {
        **provenance(),
        "compared": versions,
        "load_before": os.getloadavg(),
    }
    whole = False
    try:
        _measure(given, found)
        whole = True
    # Measurements made before Ctrl-C or a failure may have taken an hour.
    finally:
        found["load_after"] = os.getloadavg()
        if any(found.get(part) for part in ("runs", "tables", "startup")):
            _write(given, to_json(found), whole)


def _measure(given: argparse.Namespace, found: dict[str, Any]) -> None:
    """Adds to `found` what the command line asks for: runs, or tables of steps and start-up."""
    if given.run:
        _runs(options.runs(given), found.setdefault("runs", []))
        return
    _tables(given, options.settings(given), found.setdefault("tables", []))
    if given.startup:
        # A new results folder: the first start finds nothing in it, the second what was left.
        with tempfile.TemporaryDirectory() as folder:
            found["startup"] = startup(Path(folder))
        for name, f in found["startup"].items():
            print(f"{name}: {f['wall_s']:.2f} s, {f['cpu_s']:.2f} CPU-seconds")


def _tables(
    given: argparse.Namespace, settings: list[Setting], found: list[dict[str, Any]]
) -> None:
    """Measures and prints a table for each setting; adds their figures to `found`."""
    # Always: every ratio is to one of these two.
    names = list(dict.fromkeys(["floor", "products", *(given.only or CONTENDERS)]))
    if len(set(given.precision)) == 2:
        names += [f"{name}, bf16" for name in names]
    for s in settings:
        figures = measure(s, names, given.rounds, given.steps, given.repeats)
        found.append({"setting": asdict(s), "figures": figures})
        if given.memory:
            for name in names:
                figures[name]["peak_bytes"] = peak_memory(s, name)
        # Printed as it is measured: all settings together take an hour.
        print("\n".join(table(s, figures)), end="\n\n", flush=True)


def _runs(all_runs: list[Runs], found: list[dict[str, Any]]) -> None:
    """Times whole runs and prints a table for each model; adds their figures to `found`."""
    for runs in all_runs:
        figures = whole_runs(runs, lambda line: print(line, flush=True))
        found.append({"setting": asdict(runs), "figures": figures})
        print("", *runs_table(found[-1]["setting"], figures), "", sep="\n", flush=True)


def _write(given: argparse.Namespace, text: str, whole: bool) -> None:
    """Writes the figures as JSON; prints them and exits with 1 where the disk does not take them.

    To measure them again would take as long as before. Figures that are not whole get a name of
    their own, `-part`, so that they replace none that are.
    """
    precisions = "-".join(sorted(set(given.precision), reverse=True))
    default = f"{'run-' if given.run else ''}{given.device}-{precisions}.json"
    to = given.to or options.BENCH / default
    to = to if whole else to.with_name(f"{to.stem}-part{to.suffix}")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(to, text)
    except OSError as e:
        print(text, flush=True)
        sys.exit(f"{e.filename or to} cannot be written: {e.strerror}; the figures stand above")
    print(f"written: {to}")


if __name__ == "__main__":
    command(main)
