"""Trains as `python -m dora.run` does; the second of several processes fails in step 5."""

from __future__ import annotations

from dora.run import main
from dora.training.step import Stepper
from runs import second_fails_in

Stepper.take = second_fails_in(5)  # type: ignore[method-assign]
main()
