"""`python -m dora.bench`: a training step's cost, beside the floor, PEFT and the Trainer."""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import warnings
from dataclasses import asdict
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

from dora.files import to_json, write_atomic
from dora.process.command import command
from dora.records.provenance import provenance
from dora.timing.candidates import COMPILED, CONTENDERS
from dora.timing.measure import measure, memory_here, peak_memory, startup, table
from dora.timing.setting import SIZES, Setting


def _parser() -> argparse.ArgumentParser:
    """Returns the command line's parser. Its help fits a screen of 24 lines by 80 columns."""
    parser = argparse.ArgumentParser(
        usage="python -m dora.bench [OPTION ...]",
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=25),
    )
    add = parser.add_argument_group("a step of ours beside floor, PEFT and Trainer").add_argument
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
        choices=["fp32", "bf16"],
        default=["fp32"],
        metavar="P",
        help="fp32, bf16; both: beside fp32's floor (default: fp32)",
    )
    add("--device", default="cpu", metavar="D", help="cpu or cuda (default: %(default)s)")
    add("--threads", nargs="+", type=int, default=[2], metavar="N", help="on a CPU (default: 2)")
    add(
        "--only",
        nargs="+",
        choices=[*CONTENDERS, *COMPILED],
        metavar="ROW",
        help="default: all rows but the slow 'compiled' ones",
    )
    add("--rounds", type=int, default=15, metavar="N", help="of a series (default: %(default)s)")
    add("--steps", type=int, default=1, metavar="N", help="in a round (default: %(default)s)")
    add("--repeats", type=int, default=3, metavar="N", help="series (default: %(default)s)")
    add("--memory", action="store_true", help="peak memory too (default: no)")
    add("--startup", action="store_true", help="start-up times too (default: no)")
    add("--to", type=Path, metavar="FILE", help="default: results/bench/DEVICE-PRECISION.json")
    # Hidden from the help: it is how `peak_memory` asks a process of its own.
    add("--memory-of", choices=[*CONTENDERS, *COMPILED], help=argparse.SUPPRESS)
    return parser


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


def main() -> None:
    """Measures, prints the tables and writes them with machine and versions as JSON."""
    given = _parser().parse_args()
    warnings.filterwarnings("ignore")  # PEFT's and the Trainer's own, between the tables
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    settings = _settings(given)
    # `peak_memory` gives one value for each option, so that there is one setting.
    if given.memory_of:
        print(memory_here(settings[0], given.memory_of))
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
    found["tables"] = _tables(given, settings)
    if given.startup:
        # A new results folder: the first start finds nothing in it, the second what was left.
        with tempfile.TemporaryDirectory() as folder:
            found["startup"] = startup(Path(folder))
        for name, f in found["startup"].items():
            print(f"{name}: {f['wall_s']:.2f} s, {f['cpu_s']:.2f} CPU-seconds")
    found["load_after"] = os.getloadavg()
    default = f"{given.device}-{'-'.join(sorted(set(given.precision), reverse=True))}.json"
    to = given.to or Path("results", "bench", default)
    to.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(to, to_json(found))
    print(f"written: {to}")


if __name__ == "__main__":
    command(main)
