"""`python -m dora.bench`: a training step's cost, beside the floor, PEFT and the Trainer."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import torch

from dora import CONF
from dora.data.tasks import TASKS
from dora.errors import RunFailed, UserError
from dora.files import to_json, write_atomic
from dora.process.command import command
from dora.process.surroundings import folder_problems
from dora.records.provenance import provenance
from dora.timing.candidates import COMPILED, CONTENDERS, OTHERS
from dora.timing.measure import measure, memory_here, peak_memory, table
from dora.timing.setting import LONGEST, SIZES, Setting
from dora.timing.startup import startup
from dora.timing.whole_run import DRAWN, Runs, runs_table, whole_runs
from dora.training.precision import automatic

BENCH = Path("results", "bench")  # where figures go unless --to names a file
MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))


def _parser() -> argparse.ArgumentParser:
    """Returns the command line's parser. Its help fits a screen of 24 lines by 80 columns."""
    parser = argparse.ArgumentParser(
        usage="python -m dora.bench [OPTION ...]",
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=25),
    )
    title = "a step of ours beside floor, PEFT and Trainer; with --run, a whole run"
    add = parser.add_argument_group(title).add_argument
    add("-h", "--help", action="help", help=argparse.SUPPRESS)
    add(
        "--size",
        nargs="+",
        choices=SIZES,
        default=["tiny", "minilm"],
        metavar="S",
        help=f"{' '.join(SIZES)} (default: tiny minilm)",
    )
    add(
        "--dropout",
        nargs="+",
        type=float,
        default=[0.0, 0.1],
        metavar="P",
        help="of the adapters' input (default: 0 0.1)",
    )
    add("--backbone-dropout", type=float, default=0.1, metavar="P", help="default: %(default)s")
    add("--batch", type=int, default=16, metavar="N", help="rows (default: %(default)s)")
    add("--length", type=int, default=64, metavar="N", help="tokens a row (default: %(default)s)")
    add(
        "--precision",
        nargs="+",
        choices=["fp32", "bf16", "auto"],
        default=["fp32"],
        metavar="P",
        help="fp32, bf16, auto; or two of them (default: fp32)",
    )
    add("--device", default="cpu", metavar="D", help="cpu or cuda (default: %(default)s)")
    add("--threads", nargs="+", type=int, default=[2], metavar="N", help="on a CPU (default: 2)")
    add(
        "--only",
        nargs="+",
        choices=[*CONTENDERS, *OTHERS, *COMPILED],
        metavar="ROW",
        help="default: all but other methods and compiled ones",
    )
    add("--rounds", type=int, default=15, metavar="N", help="of a series (default: %(default)s)")
    add("--steps", type=int, default=1, metavar="N", help="in a round (default: %(default)s)")
    add("--repeats", type=int, default=3, metavar="N", help="series; --run's seeds (default: 3)")
    add("--memory", action="store_true", help="peak memory too (default: no)")
    add("--startup", action="store_true", help="start-up times too (default: no)")
    _add_runs(add)
    add(
        "--to", type=Path, metavar="FILE", help="default: results/bench/[run-]DEVICE-PRECISION.json"
    )
    # Hidden from the help: it is how `peak_memory` asks a process of its own.
    add("--memory-of", choices=[*CONTENDERS, *OTHERS, *COMPILED], help=argparse.SUPPRESS)
    return parser


def _add_runs(add: Callable[..., Any]) -> None:
    """Adds the options of whole runs; `add`: adds one to the parser."""
    add("--run", action="store_true", help="whole runs by stages, beside Trainer's (default: no)")
    add(
        "--data",
        metavar="FOLDER",
        help="--run's GLUE download, or mini (default: mini)",
        default="mini",
    )
    add("--task", choices=TASKS, default="rte", metavar="T", help="--run's (default: rte)")
    add(
        "--model",
        nargs="+",
        choices=[*MODELS, *DRAWN],
        default=["minilm"],
        metavar="M",
        help="--run's; base has drawn weights (default: minilm)",
    )
    add("--epochs", type=int, default=3, metavar="N", help="--run's (default: 3)")


def problems(given: argparse.Namespace) -> list[str]:
    """Lists the problems of the options, of the device and of the place to write to."""
    found = []
    for name in ("batch", "length", "threads", "rounds", "steps", "repeats", "epochs"):
        typed = getattr(given, name)
        values = typed if isinstance(typed, list) else [typed]
        found += [f"--{name} {value} must be 1 or more" for value in values if value < 1]
    if given.length > LONGEST:
        found.append(f"--length {given.length}: the models take {LONGEST} tokens at most")
    shares = {"dropout": given.dropout, "backbone-dropout": [given.backbone_dropout]}
    for name, values in shares.items():
        # `not 0 <=` refuses NaN too.
        found += [f"--{name} {p:g} must lie in [0, 1)" for p in values if not 0 <= p < 1]
    if not (device := re.fullmatch("cpu|cuda(?::([0-9]+))?", given.device)):
        found.append(f"--device {given.device} must be cpu, cuda or cuda:N")
    elif given.device != "cpu" and int(device[1] or 0) >= torch.cuda.device_count():
        found.append(f"--device {given.device}: no such GPU here")
    if given.run and given.data != "mini" and not Path(given.data).is_dir():
        found.append(f"--data {given.data}: no such folder; a GLUE download, or mini")
    to = given.to or BENCH
    if given.to and to.is_dir():
        found.append(f"--to {to} is a folder; name a file")
    return found + folder_problems("--to ", to.parent if given.to else to)


def _settings(given: argparse.Namespace) -> list[Setting]:
    """Returns every combination of size, dropout and threads.

    Their precision is fp32 if both are asked for: the candidates in bf16 say so in their names.
    """
    return [
        Setting(
            size=size,
            dropout=dropout,
            batch=given.batch,
            length=given.length,
            device=given.device,
            precision="fp32" if "fp32" in given.precision else "bf16",
            threads=threads,
            backbone_dropout=given.backbone_dropout,
        )
        for size, dropout, threads in product(given.size, given.dropout, given.threads)
    ]


def _tables(given: argparse.Namespace, settings: list[Setting]) -> list[dict[str, Any]]:
    """Measures and prints a table for each setting; returns their figures."""
    # Always: every ratio is to one of these two.
    names = list(dict.fromkeys(["floor", "products", *(given.only or CONTENDERS)]))
    if len(set(given.precision)) == 2:
        names += [f"{name}, bf16" for name in names]
    tables = []
    for s in settings:
        figures = measure(s, names, given.rounds, given.steps, given.repeats)
        if given.memory:
            for name in names:
                figures[name]["peak_bytes"] = peak_memory(s, name)
        # Printed as it is measured: all settings together take an hour.
        print("\n".join(table(s, figures)), end="\n\n", flush=True)
        tables.append({"setting": asdict(s), "figures": figures})
    return tables


def _runs(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Times whole runs of each model and prints their table; returns their figures."""
    found = []
    for model, threads in product(given.model, given.threads):
        runs = Runs(
            given.task,
            model,
            given.data,
            given.epochs,
            threads,
            tuple(dict.fromkeys(given.precision)),
            given.device,
            given.repeats,
        )
        figures = whole_runs(runs, lambda line: print(line, flush=True))
        found.append({"setting": asdict(runs), "figures": figures})
        print("", *runs_table(found[-1]["setting"], figures), "", sep="\n", flush=True)
    return found


def main() -> None:
    """Measures, prints the tables and writes them with machine and versions as JSON."""
    parser = _parser()
    given = parser.parse_args()
    # Before anything is measured, which may take an hour.
    if found_wrong := problems(given):
        parser.error("; ".join(found_wrong))
    # As a run resolves it, so that file, tables and records name the precision itself.
    given.precision = [
        automatic(given.device) if name == "auto" else name for name in given.precision
    ]
    warnings.filterwarnings("ignore")  # PEFT's and the Trainer's own, between the tables
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # `peak_memory` gives one value for each option, so that there is one setting.
    if given.memory_of:
        print(memory_here(_settings(given)[0], given.memory_of))
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
    try:
        _measure(given, found)
    except (UserError, RunFailed) as e:  # from a whole run
        print(e, file=sys.stderr)
        sys.exit(e.exit_code)
    found["load_after"] = os.getloadavg()
    _write(given, to_json(found))


def _write(given: argparse.Namespace, text: str) -> None:
    """Writes the figures as JSON; prints them and exits with 1 where the disk does not take them.

    To measure them again would take as long as before.
    """
    precisions = "-".join(sorted(set(given.precision), reverse=True))
    default = f"{'run-' if given.run else ''}{given.device}-{precisions}.json"
    to = given.to or BENCH / default
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(to, text)
    except OSError as e:
        print(text, flush=True)
        sys.exit(f"{e.filename or to} cannot be written: {e.strerror}; the figures stand above")
    print(f"written: {to}")


def _measure(given: argparse.Namespace, found: dict[str, Any]) -> None:
    """Adds to `found` what the command line asks for: runs, or tables of steps and start-up."""
    if given.run:
        found["runs"] = _runs(given)
        return
    found["tables"] = _tables(given, _settings(given))
    if given.startup:
        # A new results folder: the first start finds nothing in it, the second what was left.
        with tempfile.TemporaryDirectory() as folder:
            found["startup"] = startup(Path(folder))
        for name, f in found["startup"].items():
            print(f"{name}: {f['wall_s']:.2f} s, {f['cpu_s']:.2f} CPU-seconds")


if __name__ == "__main__":
    command(main)
