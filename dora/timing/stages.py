"""The stages of a whole run, and a clock that tells which one a process is in.

Imports the standard library alone: whoever times a start-up imports this first.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START, READ, LOAD, STEPS = "start-up", "reading and tokenising", "model loading", "steps"
EVALUATIONS, FINAL = "evaluations in training", "final predictions"
WRITING, REST = "writing", "rest"
STAGES = (START, READ, LOAD, STEPS, EVALUATIONS, FINAL, WRITING, REST)


class Stages:
    """Counts wall and CPU seconds of this process by stage.

    A stage inside another one is not counted with the outer one. The process is in START until its
    first step, and in REST between other stages after that. `began`: `time.perf_counter()` of the
    parent when it started this process; Linux has one such clock for all processes.
    """

    def __init__(self, began: float) -> None:
        self.spent = {stage: [0.0, 0.0] for stage in STAGES}
        self._within = [START]
        self._at = (began, 0.0)  # process_time() counts from the process's own start

    def _count(self) -> None:
        """Adds the time since the last call to the present stage."""
        now = time.perf_counter(), time.process_time()
        spent = self.spent[self._within[-1]]
        spent[:] = [s + n - a for s, n, a in zip(spent, now, self._at, strict=True)]
        self._at = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the time within the context as the stage `name`."""
        self._count()
        if name == STEPS:
            self._within[0] = REST
        self._within.append(name)
        try:
            yield
        finally:
            self._count()
            self._within.pop()

    def wrap(self, owner: Any, function: str, name: str) -> None:
        """Replaces a function of a module, class or object by itself within the stage `name`."""
        original = getattr(owner, function)

        @functools.wraps(original)
        def within(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return original(*args, **kwargs)

        setattr(owner, function, within)

    def write(self, file: Path, **more: Any) -> None:
        """Writes {stage: [wall seconds, CPU seconds]} and `more` to a JSON file."""
        self._count()
        file.write_text(json.dumps({"stages": self.spent, **more}))


def watch(stages: Stages) -> None:
    """Has the functions of a run of the suite counted by their stages.

    They are wrapped from outside, since the suite itself holds no clocks, once every module that a
    run needs is imported.
    """
    from dora.preparing import prepare
    from dora.records.record import Record
    from dora.training import build, finish, one_run
    from dora.training.loop import Loop
    from dora.training.step import Stepper

    functions: dict[str, tuple[tuple[Any, str], ...]] = {
        READ: ((prepare, "_locate_and_read"), (build, "_tokens")),
        LOAD: ((build, "_model"), (build, "attach"), (build, "_place")),
        # The log line and the check wait for the device, which is at work on steps.
        STEPS: ((Loop, "train_step"), (Loop, "_log_training"), (Stepper, "check_finite")),
        EVALUATIONS: ((Loop, "evaluate_and_select"),),
        FINAL: ((one_run, "finish"),),
        WRITING: (
            (Loop, "save"),
            (finish, "_save_weights"),
            (finish, "save"),
            (finish.artefacts, "sums"),
            *((Record, name) for name in ("open", "update", "log", "sync", "finish", "close")),
        ),
    }
    for stage, found in functions.items():
        for owner, function in found:
            stages.wrap(owner, function, stage)


# The command dora.run with the end that `python -m dora.run` has. Arguments: `began`, the file for
# the stages, and the run's words.
OURS = """
import gc, sys
from pathlib import Path
from dora.timing.stages import Stages, watch
stages, file = Stages(float(sys.argv.pop(1))), Path(sys.argv.pop(1))
from dora import run
from dora.cli.job import import_heavy
import_heavy()
watch(stages)
run.main()
gc.freeze()
stages.write(file)
"""
