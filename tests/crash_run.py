"""`dora.run` that breaks off after a given step, for the tests: python crash_run.py STEP key=value ..."""

from __future__ import annotations

import sys
from typing import Any

from dora.run import main
from dora.train import Loop

last = int(sys.argv.pop(1))
original = Loop.train_step


def crash(self: Loop, step: int) -> Any:
    if step == last + 1:
        raise OSError("power cut")
    return original(self, step)


Loop.train_step = crash  # type: ignore[method-assign]
main()
