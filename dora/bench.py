"""`python -m dora.bench`: what a training step costs: ours beside the floor, PEFT and the Trainer."""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import warnings
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from dora.files import to_json, write_atomic
from dora.process.command import command
from dora.records.provenance import provenance
from dora.timing.candidates import COMPILED, CONTENDERS, SIZES, Setting
from dora.timing.measure import measure, memory_here, peak_memory, startup, table


def main() -> None:
    """Measures, prints the tables and writes them with machine and versions as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m dora.bench",
        description="What a training step costs: ours beside the floor, PEFT and the Trainer.",
    )
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["tiny", "minilm"])
    parser.add_argument(
        "--dropout", nargs="+", type=float, default=[0.0, 0.1], help="of the adapters' input"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--backbone-dropout", type=float, default=0.1)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*CONTENDERS, *COMPILED],
        help="default: all but the compiled ones, which take minutes to begin",
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=1, help="a contender's in one round")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--memory", action="store_true", help="peak memory too, each in a process of its own"
    )
    parser.add_argument("--startup", action="store_true", help="start-up times too")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FILE",
        help="JSON (default: results/bench/DEVICE-PRECISION.json)",
    )
    parser.add_argument("--memory-of", choices=[*CONTENDERS, *COMPILED], help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")  # PEFT's and the Trainer's own, between the tables
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    settings = [
        Setting(
            size,
            dropout,
            given.batch,
            given.length,
            given.device,
            given.precision,
            threads,
            given.backbone_dropout,
        )
        for size in given.size
        for dropout in given.dropout
        for threads in given.threads
    ]
    if given.memory_of:
        print(memory_here(settings[0], given.memory_of))
        return
    names = list(dict.fromkeys(["floor", *(given.only or CONTENDERS)]))
    versions = {
        p: metadata.version(p) for p in ("peft", "accelerate") if importlib.util.find_spec(p)
    }
    found: dict[str, Any] = {
        **provenance(),
        "compared": versions,
        "load_before": os.getloadavg(),
        "tables": [],
    }
    for s in settings:
        figures = measure(s, names, given.rounds, given.steps, given.repeats)
        if given.memory:
            for name in names:
                figures[name]["peak_bytes"] = peak_memory(s, name)
        print("\n".join(table(s, figures)), end="\n\n", flush=True)
        found["tables"].append({"setting": asdict(s), "figures": figures})
    if given.startup:
        with tempfile.TemporaryDirectory() as folder:
            found["startup"] = startup(Path(folder))
        for name, f in found["startup"].items():
            print(f"{name}: {f['wall_s']:.2f} s, {f['cpu_s']:.2f} CPU-seconds")
    found["load_after"] = os.getloadavg()
    to = given.to or Path("results", "bench", f"{given.device}-{given.precision}.json")
    to.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(to, to_json(found))
    print(f"written: {to}")


if __name__ == "__main__":
    command(main)
