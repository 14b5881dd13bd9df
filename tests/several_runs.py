"""Trains two runs in one program, of which the second of several processes fails the first."""

from __future__ import annotations

import os
import sys

import dora
from dora.errors import RunFailed
from dora.training.step import Stepper

_take = Stepper.take


def take(self, step):  # type: ignore[no-untyped-def]
    """Takes the step, unless it is the one that fails."""
    if self.setup.method.title == "LoRA" and step == 3 and os.environ["RANK"] == "1":
        raise ValueError("a fault of one process")
    return _take(self, step)


Stepper.take = take  # type: ignore[method-assign]
small = {"max_steps": 6, "eval_every": 3, "limit_train": 32, "batch_size": 8, "threads": 1}
for method in ("lora", "full"):
    try:
        run = dora.train("wnli", method, results=sys.argv[1], **small)
        print(method, run.folder.name)
    except (ValueError, RunFailed) as e:
        print(method, e)
