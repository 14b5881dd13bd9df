"""Measures a training step: ours beside the floor, PEFT and the Trainer, in one process in turn.

Candidates take turns, a few steps each, round after round, so that a change of the machine's speed
meets all of them. A series' ratio is the median over its rounds of (candidate / floor within the
round). The series are repeated; their median counts, and their spread is shown beside it. All
candidates share the memory that the process keeps, which on a CPU favours the floor and PEFT too.

* *floor*: the part that every adapter must pay, in plain PyTorch and Transformers: forward through
  the frozen backbone and backward through its activations, with the head trained.
* *our floor*: the same in the bare backbone as our runs have it (`dora.backbones.attention`):
  without work that neither loss nor gradient needs, and on a CPU with a cheaper dropout. The
  backbone's own dropout is 0.1, as in training; at --backbone-dropout 0 no candidate gains by ours.
* *forward* and *evaluation*: the forward pass of the bare backbone, and the suite's evaluation of
  as many rows with an adapter, both in an evaluation's batches.
* *products*: the matrix products of a step and nothing else (`dora.timing.products`).

GFLOP/s counts the products that a step needs. *% of matmul* is that rate over the one at which the
products run by themselves, in the candidate's precision and within the same round: the share of a
step that no better arithmetic could save. On a GPU both are by the clock. On a CPU they are by CPU
seconds, shared out to the threads: other programs on the machine count less in these.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch

from dora.analysis.tables.layout import pipe_table
from dora.process import memory
from dora.timing.candidates import PHASES, contender
from dora.timing.products import flops
from dora.timing.setting import Contender, Setting, Times, in_precision

# A run of 1,000 steps prunes over 350 of them, every 12th; scores are kept from the first step on.
SHARES = {"before": 0.47, "allocating": 0.03, "after": 0.5}


def series(contenders: dict[str, Contender], rounds: int, steps: int) -> dict[str, list[Times]]:
    """Returns every contender's times, one a round, each the mean over `steps`."""
    names = list(contenders)
    times: dict[str, list[Times]] = {name: [] for name in names}
    for i in range(rounds):
        # The first of a round changes: whoever follows finds the caches as its neighbour left them.
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(contenders[name](steps))
    return times


def ratio(times: dict[str, list[Times]], name: str, to: str, what: str) -> float:
    """Returns the median over rounds of name / to within the round; `what`: wall or cpu."""
    pairs = zip(times[name], times[to], strict=True)
    return median(getattr(one, what) / getattr(other, what) for one, other in pairs)


def measure(
    s: Setting, names: Sequence[str], rounds: int, steps: int, repeats: int
) -> dict[str, Any]:
    """Returns {contender: its figures}: seconds, operations, tokens a second, ratios to the floor.

    `names`: the floor, the products of each precision, and others. Ratios are medians of `repeats`
    series. `spread`: how far the series' wall ratios lie apart, (largest - smallest) / median.
    `over_products`: time over that of the bare products in the same precision. A method with
    phases gets a line for its whole run too.
    """
    torch.set_num_threads(s.threads)
    contenders = {name: contender(s, name) for name in names}
    series(contenders, 1, steps)  # not counted: caches, allocator, autotuning
    runs = [series(contenders, rounds, steps) for _ in range(repeats)]
    what = "cpu" if s.device == "cpu" else "wall"
    figures: dict[str, Any] = {}
    for name in names:
        wall = median(t.wall for times in runs for t in times[name])
        ratios = [ratio(times, name, "floor", "wall") for times in runs]
        products = f"products, {found}" if (found := name.partition(", ")[2]) else "products"
        figures[name] = {
            "wall_s": wall,
            "cpu_s": median(t.cpu for times in runs for t in times[name]),
            "tokens_s": s.batch * s.length / wall,
            "wall_ratio": median(ratios),
            "spread": (max(ratios) - min(ratios)) / median(ratios),
            "cpu_ratio": median(ratio(times, name, "floor", "cpu") for times in runs),
            "over_products": median(ratio(times, name, products, what) for times in runs),
            "flops": flops(s, name),
        }
    figures |= _whole_runs(figures)
    for f in figures.values():
        seconds = f["cpu_s"] / s.threads if s.device == "cpu" else f["wall_s"]
        f["gflops"] = f["flops"] / seconds / 1e9
        # Operations a second over those of the products: their own count is the floor's.
        f["of_matmul"] = f["flops"] / figures["floor"]["flops"] / f["over_products"]
    return figures


def _whole_runs(figures: dict[str, Any]) -> dict[str, Any]:
    """Returns a `METHOD run` line for each method of which every phase was measured.

    Its figures are the phases' means, weighted by their shares of a run's steps.
    """
    lines = {}
    for name in figures:
        candidate, comma, precision = name.partition(", ")
        method, _, phase = candidate.partition(" ")
        phases = {p: f"{method} {p}{comma}{precision}" for p in PHASES}
        # Once for each method, at its first phase.
        if phase == PHASES[0] and figures.keys() >= set(phases.values()):
            lines[f"{method} run{comma}{precision}"] = {
                key: sum(SHARES[p] * figures[name][key] for p, name in phases.items())
                for key in ("wall_s", "cpu_s", "wall_ratio", "cpu_ratio", "over_products", "flops")
            }
    return lines


def peak_memory(s: Setting, name: str) -> int:
    """Returns the peak bytes of some steps of one contender, in a process of its own.

    A peak never falls again within a process, so that each contender needs a new one.
    """
    s, name = in_precision(s, name)
    options = {
        "--memory-of": name,
        "--size": s.size,
        "--dropout": s.dropout,
        "--device": s.device,
        "--precision": s.precision,
        "--batch": s.batch,
        "--length": s.length,
        "--threads": s.threads,
        "--backbone-dropout": s.backbone_dropout,
    }
    words = [str(word) for option in options.items() for word in option]
    done = subprocess.run(
        [sys.executable, "-m", "dora.bench", *words], capture_output=True, text=True, check=True
    )
    return int(done.stdout.splitlines()[-1])  # libraries may have printed before


def memory_here(s: Setting, name: str) -> int:
    """Returns this process's peak bytes after some steps: the other side of `peak_memory`."""
    torch.set_num_threads(s.threads)
    contender(s, name)(3)  # three: PEFT's first step begins without the optimizer's moments
    return memory.peak(torch.device(s.device))


def table(s: Setting, figures: dict[str, Any]) -> list[str]:
    """Returns the figures as a Markdown table under a line that says what was measured."""
    where = s.device
    if s.device == "cpu":
        where = f"cpu, {s.threads} thread{'s' if s.threads > 1 else ''}"
    precisions = dict.fromkeys([s.precision, *(in_precision(s, n)[0].precision for n in figures)])
    lines = [_cells(f, figures.get("PEFT LoRA", {}).get("wall_ratio")) for f in figures.values()]
    # No column of figures that were not measured, such as memory.
    shown = [column for column in lines[0] if any(line[column] for line in lines)]
    measured = (
        f"{s.size}, batch {s.batch} x {s.length}, dropout {s.dropout:g}, "
        f"{' and '.join(precisions)}, {where}"
    )
    rows = [[name, *(line[c] for c in shown)] for name, line in zip(figures, lines, strict=True)]
    return [measured, "", *pipe_table([["", *shown], *rows]).splitlines()]


def _cells(f: dict[str, Any], peft: float | None) -> dict[str, str]:
    """Returns a row's cells by their columns' heads, empty where a figure was not measured.

    `peft`: the ratio of PEFT's LoRA to the floor. Records of older measurements lack some figures.
    """
    return {
        "ms a step": f"{1e3 * f['wall_s']:.1f}",
        "CPU ms": f"{1e3 * f['cpu_s']:.1f}",
        "tokens/s": f"{f['tokens_s']:,.0f}" if "tokens_s" in f else "",
        "GFLOP/s": f"{f['gflops']:,.0f}" if "gflops" in f else "",
        "% of matmul": f"{100 * f['of_matmul']:.0f}" if "of_matmul" in f else "",
        "x floor": f"{f['wall_ratio']:.3f}",
        "x floor, CPU": f"{f['cpu_ratio']:.3f}",
        "x PEFT LoRA": f"{f['wall_ratio'] / peft:.2f}" if peft else "",
        # Empty where it is 0: the floor's own, or the one of a single series.
        "spread": f"{100 * f['spread']:.0f} %" if f.get("spread") else "",
        "peak MB": f"{f['peak_bytes'] / 1e6:,.0f}" if "peak_bytes" in f else "",
    }
