"""Trains two runs in one program, of which the second of several processes fails the first."""

from __future__ import annotations

import sys

import dora
from dora.errors import RunFailed
from dora.training.step import Stepper
from runs import second_fails_in

small = {"max_steps": 6, "eval_every": 3, "limit_train": 32, "batch_size": 8, "threads": 1}
for method, take in (("lora", second_fails_in(3)), ("full", Stepper.take)):
    Stepper.take = take  # type: ignore[method-assign]
    try:
        run = dora.train("wnli", method, results=sys.argv[1], **small)
        print(method, run.folder.name)
    except (ValueError, RunFailed) as e:
        print(method, e)
