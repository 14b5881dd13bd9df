"""Times commands that only begin: help texts, and the way to a run's first step."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# The command dora.run, but the process ends at once when its first step is done.
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
    """Returns wall and CPU seconds of commands that only begin.

    They are help texts, and the way to a run's first step: once in a new results folder, and once
    with the tokenised data that the first start left there.
    """
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
        action = partial(subprocess.run, words, capture_output=True, check=True)
        _, found[name] = of_processes(action)
    return found


def of_processes(action: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """Returns the result of `action`, and the seconds of the processes that it started.

    Wall seconds are those of `action`; CPU seconds those of children that it has awaited.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    result = action()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result, {"wall_s": wall, "cpu_s": cpu}
