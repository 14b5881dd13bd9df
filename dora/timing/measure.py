"""What a training step costs: ours beside the floor, PEFT and the Trainer, measured in one process in turn.

The *floor* is what every adapter must pay: forward through the frozen backbone and backward through its
activations, with the head trained, all in plain PyTorch and Transformers. All else is given as a multiple of
it. The contenders take turns, a few steps each, round after round, so that a change of the machine's speed
meets all of them; a series' ratio is the median over its rounds of (contender / floor within the round). The
series are repeated, the median of them counts, and how far they lie apart is said beside it.

The backbone's own dropout is 0.1, as in training. On a CPU ours is cheaper than PyTorch's (`dora.adapters.dropout`), so
that there is a second floor that has it too; with --backbone-dropout 0 no one gains by it.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch

from dora.process import memory
from dora.timing.candidates import (
    PHASES,
    Contender,
    Setting,
    Times,
    contender,
)

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


def measure(
    s: Setting, names: Sequence[str], rounds: int, steps: int, repeats: int
) -> dict[str, Any]:
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
        figures[name] = {
            "wall_s": wall,
            "cpu_s": median(t.cpu for times in runs for t in times[name]),
            "tokens_s": s.batch * s.length / wall,
        }
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
    words = [
        "--memory-of",
        name,
        "--size",
        s.size,
        "--dropout",
        str(s.dropout),
        "--device",
        s.device,
        "--precision",
        s.precision,
        "--batch",
        str(s.batch),
        "--length",
        str(s.length),
        "--threads",
        str(s.threads),
        "--backbone-dropout",
        str(s.backbone_dropout),
    ]
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
from dora import run
from dora.training import loop
whole = loop.Loop.train_step
def first(self, step):
    whole(self, step)
    os._exit(0)
loop.Loop.train_step = first
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
        _, found[name] = of_processes(
            partial(subprocess.run, words, capture_output=True, check=True)
        )
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
        spread = (
            f"{100 * f['spread']:.0f} %" if f.get("spread") else ""
        )  # 0: the floor's, or of one series
        memory = f"{f['peak_bytes'] / 1e6:,.0f}" if "peak_bytes" in f else ""
        lines.append(
            f"| {name} | {1e3 * f['wall_s']:.1f} | {1e3 * f['cpu_s']:.1f} | {tokens} | {f['wall_ratio']:.3f} "
            f"| {f['cpu_ratio']:.3f} | {to_peft} | {spread} | {memory} |"
        )
    return lines
