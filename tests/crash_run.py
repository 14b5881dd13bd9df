"""`dora.run` that breaks off after a given step: python crash_run.py STEP key=value ..."""

from __future__ import annotations

import sys

from dora.run import main
from dora.training.loop import Loop
from runs import crash_after

Loop.train_step = crash_after(int(sys.argv.pop(1)))  # type: ignore[method-assign]
main()
