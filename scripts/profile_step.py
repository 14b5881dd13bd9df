"""Profiles a training step: time in matrix products, other kernels, launches and waits.

    python scripts/profile_step.py --device cuda --precision bf16 --size base
    python scripts/profile_step.py --size tiny --batch 8 --length 16 --steps 2

For each candidate of `dora.bench` it prints the seconds of a step without the profiler, and then,
with the profiler, the share of each kind of kernel (on a CPU: of operation), the number of launches
and of waits for the device, and the rows with the most time.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from dora.files import to_json, write_atomic
from dora.records.provenance import provenance
from dora.timing.candidates import OURS, contender
from dora.timing.setting import SIZES, Setting

# Patterns of a kernel's or an operation's name; the first that matches counts. Attention is first:
# fused kernels of it have the names of matrix products too.
KINDS = {
    "attention": "fmha|flash|attention|sdp|softmax",
    "matrix products": "gemm|gemv|nvjet|cutlass|xmma|mkldnn_linear|"
    "aten::(addmm_?|mm|bmm|baddbmm|linear|matmul)$",
    "copies": "memcpy|memset|copy_kernel|CatArray|"
    "aten::(copy_|cat|stack|clone|fill_|zero_|index_select|gather)$",
    "optimizer and clip": "adam|foreach|multi_tensor",
}
REST = "elementwise, reductions, random numbers"
LAUNCH = re.compile(r"(cuda|cu)(Launch|Graph)\w*$")
WAIT = re.compile(r"cuda\w*Synchronize$")


def kind(name: str) -> str:
    """Returns the kind of work that a kernel or an operation of this name does."""
    return next(
        (k for k, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), REST
    )


def summary(rows: list[Any], steps: int, cpu: bool) -> Iterator[str]:
    """Yields lines of milliseconds a step by kind, from the profiler's averages."""
    ours = DeviceType.CPU if cpu else DeviceType.CUDA
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    host: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for row in rows:
        spans = row.key.startswith(("Optimizer.", "ProfilerStep"))
        if spans or getattr(row, "is_user_annotation", False):
            continue  # the operations inside are rows of their own, and would count twice
        if row.device_type == ours:
            time = row.self_cpu_time_total if cpu else row.self_device_time_total
            _add(spent[kind(row.key)], time, row.count, steps)
        if row.device_type == DeviceType.CPU and (LAUNCH.match(row.key) or WAIT.match(row.key)):
            name = "launches" if LAUNCH.match(row.key) else "waits for the device"
            _add(host[name], row.self_cpu_time_total, row.count, steps)
    total = sum(time for time, _ in spent.values()) or 1
    for name, (time, count) in sorted(spent.items(), key=lambda item: -item[1][0]):
        yield f"  {time:9.3f} ms  {100 * time / total:5.1f} %  {count:8.1f} times  {name}"
    whose = "the operations themselves" if cpu else "the device at work"
    yield f"  {total:9.3f} ms  in all, {whose}"
    for name, (time, count) in host.items():
        yield f"  {time:9.3f} ms           {count:8.1f} times  {name} (the host's time)"


def _add(found: list[float], time: float, count: int, steps: int) -> None:
    """Adds a row's microseconds and count to [milliseconds a step, count a step]."""
    found[0] += time / 1e3 / steps
    found[1] += count / steps


def profiled(s: Setting, name: str, steps: int, top: int) -> Iterator[str]:
    """Yields the lines of one contender."""
    run = contender(s, name)
    run(3)  # not counted: caches, allocator, autotuning
    # Timed without the profiler, which slows down every launch.
    wall = run(steps).wall
    cpu = s.device == "cpu"
    activities = [ProfilerActivity.CPU] if cpu else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    # acc_events: without it the profiler warns that it clears its events.
    with profile(activities=activities, acc_events=True) as profiler:
        run(steps)
    averages = profiler.key_averages()
    where = f"{s.size}, batch {s.batch} x {s.length}, {s.precision}, {s.device}"
    yield f"## {name}: {where}: {1e3 * wall:.2f} ms a step"
    yield from summary(list(averages), steps, cpu)
    order = "self_cpu_time_total" if cpu else "self_device_time_total"
    yield averages.table(sort_by=order, row_limit=top, max_name_column_width=70)


def main() -> None:
    """Prints the summaries, and writes them with the place of measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=OURS,
        default=["lora", "dora before", "dora allocating"],
        help="candidates (default: lora, dora before, dora allocating)",
    )
    parser.add_argument(
        "--size", choices=SIZES, default="base", help="of the backbone (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batch", type=int, default=32, help="rows (default: %(default)s)")
    parser.add_argument(
        "--length", type=int, default=128, help="tokens a row (default: %(default)s)"
    )
    parser.add_argument(
        "--dropout", type=float, default=0.0, help="of the adapters' input (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=10, help="profiled (default: %(default)s)")
    parser.add_argument(
        "--top", type=int, default=25, help="rows of the profiler's table (default: %(default)s)"
    )
    parser.add_argument("--to", type=Path, metavar="FILE", help="write the text to this file")
    given = parser.parse_args()
    s = Setting(
        given.size,
        given.dropout,
        given.batch,
        given.length,
        given.device,
        given.precision,
        threads=1,
    )
    # One: an operation's time is then the CPU's, not that of the slowest of several threads.
    torch.set_num_threads(s.threads)
    lines = []
    for name in given.only:
        for line in profiled(s, name, given.steps, given.top):
            print(line, flush=True)
            lines.append(line)
    if given.to is not None:
        given.to.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(given.to, "\n".join([*lines, to_json(provenance())]))


if __name__ == "__main__":
    main()
