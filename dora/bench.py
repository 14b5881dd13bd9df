"""What a training step costs: ours beside the floor, PEFT and the Trainer, measured in one process in turn.

The *floor* is what every adapter must pay: forward through the frozen backbone and backward through its
activations, with the head trained, all in plain PyTorch and Transformers. All else is given as a multiple of
it. The contenders take turns, a few steps each, round after round, so that a change of the machine's speed
meets all of them; a series' ratio is the median over its rounds of (contender / floor within the round). The
series are repeated, the median of them counts, and how far they lie apart is said beside it.

The backbone's own dropout is 0.1, as in training. On a CPU ours is cheaper than PyTorch's (`dora.dropout`), so
that there is a second floor that has it too; with --backbone-dropout 0 no one gains by it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch

from dora import memory
from dora.command import command
from dora.contenders import COMPILED, CONTENDERS, PHASES, SIZES, Contender, Setting, Times, contender
from dora.files import to_json, write_atomic
from dora.provenance import provenance

T = TypeVar("T")


def series(contenders: dict[str, Contender], rounds: int, steps: int) -> dict[str, list[Times]]:
    """Every contender's times, one a round; who comes first changes from round to round."""
    names = list(contenders)
    times: dict[str, list[Times]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(contenders[name](steps))
    return times


def ratio(times: dict[str, list[Times]], name: str, to: str, what: str) -> float:
    """The median over rounds of name / to within the round; `what`: wall or cpu."""
    pairs = zip(times[name], times[to], strict=True)
    return median(getattr(one, what) / getattr(other, what) for one, other in pairs)


# A run of 1,000 steps prunes over 350 of them, every 12th; scores are kept from the first step on.
SHARES = {"before": 0.47, "allocating": 0.03, "after": 0.5}


def measure(s: Setting, names: Sequence[str], rounds: int, steps: int, repeats: int) -> dict[str, Any]:
    """{contender: its figures}: seconds a step, tokens a second, and ratios, the median of `repeats` series.

    `spread`: how far the series' wall ratios lie apart, (largest − smallest) / median.
    """
    torch.set_num_threads(s.threads)
    contenders = {name: contender(s, name) for name in names}
    series(contenders, 1, steps)  # caches, allocator, autotuning
    runs = [series(contenders, rounds, steps) for _ in range(repeats)]
    figures: dict[str, Any] = {}
    for name in names:
        wall = median(t.wall for times in runs for t in times[name])
        figures[name] = {"wall_s": wall, "cpu_s": median(t.cpu for times in runs for t in times[name]),
                         "tokens_s": s.batch * s.length / wall}  # fmt: skip
        for what in ("wall", "cpu"):
            all_of_it = [ratio(times, name, "floor", what) for times in runs]
            figures[name][f"{what}_ratio"] = median(all_of_it)
            if what == "wall":
                figures[name]["spread"] = (max(all_of_it) - min(all_of_it)) / median(all_of_it)
    for method in ("adalora", "dora"):
        if all(f"{method} {phase}" in figures for phase in PHASES):
            figures[f"{method} run"] = {
                key: sum(SHARES[phase] * figures[f"{method} {phase}"][key] for phase in PHASES)
                for key in ("wall_s", "cpu_s", "wall_ratio", "cpu_ratio")
            }
    return figures


def peak_memory(s: Setting, name: str) -> int:
    """Bytes that a process of its own needs at most for some steps of one contender."""
    words = ["--memory-of", name, "--size", s.size, "--dropout", str(s.dropout), "--device", s.device,
             "--precision", s.precision, "--batch", str(s.batch), "--length", str(s.length),
             "--threads", str(s.threads), "--backbone-dropout", str(s.backbone_dropout)]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "dora.bench", *words], capture_output=True, text=True, check=True
    )
    return int(done.stdout.splitlines()[-1])


def memory_here(s: Setting, name: str) -> int:
    """What `peak_memory` asks of its process."""
    torch.set_num_threads(s.threads)
    contender(s, name)(3)
    return memory.peak(torch.device(s.device))


def of_processes(action: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """(what `action` returns, wall seconds and the CPU seconds of the processes that it started and awaited)."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    result = action()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result, {"wall_s": wall, "cpu_s": cpu}


FIRST_STEP = """
import os
from dora import run, train
whole = train.Loop.train_step
def first(self, step):
    whole(self, step)
    os._exit(0)
train.Loop.train_step = first
run.main()
"""


def startup(results: Path) -> dict[str, dict[str, float]]:
    """Wall and CPU seconds of commands that only begin: help texts, and a known run's way to its first step."""
    run = ["task=rte", "method=lora", f"results={results}"]
    module = [sys.executable, "-m"]
    commands = {
        "dora.run --help": [*module, "dora.run", "--help"],
        "dora.tables --help": [*module, "dora.tables", "--help"],
        "first start to first step": [sys.executable, "-c", FIRST_STEP, *run],
        "second start to first step": [sys.executable, "-c", FIRST_STEP, *run],
    }
    found = {}
    for name, words in commands.items():
        _, found[name] = of_processes(partial(subprocess.run, words, capture_output=True, check=True))
    return found


def table(s: Setting, figures: dict[str, Any]) -> list[str]:
    """The figures as a Markdown table under a line that says what was measured."""
    where = s.device if s.device != "cpu" else f"cpu, {s.threads} thread{'s' * (s.threads > 1)}"
    lines = [
        f"{s.size}, batch {s.batch} x {s.length}, dropout {s.dropout:g}, {s.precision}, {where}",
        "",
        "| | ms a step | CPU ms | tokens/s | x floor | x floor, CPU | x PEFT LoRA | spread | peak MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    peft = figures.get("PEFT LoRA", {}).get("wall_ratio")
    for name, f in figures.items():
        to_peft = f"{f['wall_ratio'] / peft:.2f}" if peft else ""
        tokens = f"{f['tokens_s']:,.0f}" if "tokens_s" in f else ""
        spread = f"{100 * f['spread']:.0f} %" if f.get("spread") else ""  # 0: the floor's, or of one series
        memory = f"{f['peak_bytes'] / 1e6:,.0f}" if "peak_bytes" in f else ""
        lines.append(f"| {name} | {1e3 * f['wall_s']:.1f} | {1e3 * f['cpu_s']:.1f} | {tokens} | {f['wall_ratio']:.3f} "
                     f"| {f['cpu_ratio']:.3f} | {to_peft} | {spread} | {memory} |")  # fmt: skip
    return lines


def main() -> None:
    """Measures, prints the tables and writes them with machine and versions as JSON."""
    parser = argparse.ArgumentParser(prog="python -m dora.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["tiny", "minilm"])
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.0, 0.1], help="of the adapters' input")
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
    parser.add_argument("--memory", action="store_true", help="peak memory too, each in a process of its own")
    parser.add_argument("--startup", action="store_true", help="start-up times too")
    parser.add_argument("--to", type=Path, metavar="FILE", help="JSON (default: results/bench/DEVICE-PRECISION.json)")  # fmt: skip
    parser.add_argument("--memory-of", choices=[*CONTENDERS, *COMPILED], help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")  # PEFT's and the Trainer's own, between the tables
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    settings = [
        Setting(size, dropout, given.batch, given.length, given.device, given.precision, threads, given.backbone_dropout)
        for size in given.size for dropout in given.dropout for threads in given.threads
    ]  # fmt: skip
    if given.memory_of:
        print(memory_here(settings[0], given.memory_of))
        return
    names = list(dict.fromkeys(["floor", *(given.only or CONTENDERS)]))
    versions = {p: metadata.version(p) for p in ("peft", "accelerate") if importlib.util.find_spec(p)}
    found: dict[str, Any] = {**provenance(), "compared": versions, "load_before": os.getloadavg(), "tables": []}  # fmt: skip
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
