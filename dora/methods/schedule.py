"""The learning rate over a run, and over a part of it that a method begins anew."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dora.methods.rules import fraction_or_steps


@dataclass(frozen=True)
class Schedule:
    """The learning rate's course: it rises linearly over the warm-up, then follows `shape`.

    `shape`: linear or cosine, which fall to 0 at the end, or constant. `warmup`: below 1 a share of
    the steps, else a number of steps of the whole run.
    """

    shape: str = "constant"
    warmup: float = 0.0

    def warmup_steps(self, total_steps: int) -> int:
        """Returns the warm-up's length in steps; a fraction is rounded up, as in the Trainer."""
        return math.ceil(self.warmup * total_steps) if self.warmup < 1 else int(self.warmup)

    def share(self, step: int, total_steps: int) -> float:
        """Returns the rate of optimizer step `step` (from 1) as a share of its peak."""
        # As in Transformers, the first step of a warm-up has rate 0, and no step has rate 0 at the
        # end.
        done, warm = step - 1, self.warmup_steps(total_steps)
        if done < warm:
            return done / warm
        if self.shape == "constant":
            return 1.0
        left = (total_steps - done) / max(1, total_steps - warm)
        return left if self.shape == "linear" else 0.5 * (1 - math.cos(math.pi * left))

    def of_part(self, length: int, total_steps: int) -> Schedule:
        """Returns this schedule for a part of the run, `length` steps, warmed up in proportion."""
        if self.warmup < 1:
            return self
        return Schedule(self.shape, math.ceil(self.warmup * length / total_steps))

    def cold(self, length: int, total_steps: int, whose: str, way: str = "") -> str | None:
        """Returns a message if a part of the run, `length` steps, is warm-up alone, else None.

        One step that is all warm-up would train at rate 0. `whose`: names the part. `way`: further
        ways out. A warm-up that breaks its own rule has a message already.
        """
        if fraction_or_steps("warmup", self.warmup):
            return None
        warm = self.of_part(length, total_steps).warmup_steps(length)
        if warm < length:
            return None
        # Rounded down: the warm-up's steps are rounded up.
        most = math.floor(100 * (length - 1) / length) / 100
        return (
            f"warmup={self.warmup:g} is {warm} of {whose} {length} steps, so that the rate never "
            f"reaches lr: give {'at most ' if most else ''}warmup={most:g}{way}"
        )
