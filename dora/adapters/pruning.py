"""How much is pruned when: steps of a window, and the shapes that papers prune in."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction


def steps_of(value: float, total_steps: int) -> int:
    """Returns a setting in steps: below 1 a fraction of the run, rounded down; else whole steps."""
    # The decimal as typed: 0.35 of 180 steps is 63, where floats give 62.
    return int(Fraction(str(value)) * total_steps) if value < 1 else int(value)


# u runs over the pruning window from 0 to 1; each shape gives the share pruned so far.
SHAPES: dict[str, Callable[[Fraction], Fraction]] = {
    "cubic_late": lambda u: u**3,  # as DoRA's released code has it: few go early
    "cubic_early": lambda u: 1 - (1 - u) ** 3,  # AdaLoRA's eq. 14 as its code has it
}


def pruned(shape: str, surplus: int, n: int, d: int) -> Fraction:
    """Returns how much of `surplus` is pruned n steps into a window of d steps.

    The amount is exact; the method rounds it as its code does.
    """
    return surplus * SHAPES[shape](Fraction(n, d))
