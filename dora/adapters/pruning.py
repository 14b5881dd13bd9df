"""How much is pruned when: steps of a window, and the shapes that papers prune in."""

from __future__ import annotations

from fractions import Fraction


def steps_of(value: float, total_steps: int) -> int:
    """Returns a setting in steps: below 1 a fraction of the run, rounded down; else whole steps."""
    # The decimal as typed: 0.35 of 180 steps is 63, where floats give 62.
    return int(Fraction(str(value)) * total_steps) if value < 1 else int(value)


def _cubic_late(n: int, d: int) -> tuple[int, int]:
    """Returns u³ as (numerator, denominator), as DoRA's released code has it: few go early."""
    return n**3, d**3


def _cubic_early(n: int, d: int) -> tuple[int, int]:
    """Returns 1 − (1 − u)³ as (numerator, denominator): AdaLoRA's eq. 14 as its code has it."""
    return d**3 - (d - n) ** 3, d**3


# u = n / d runs over the pruning window from 0 to 1; each shape gives the share pruned so far.
SHAPES = {"cubic_late": _cubic_late, "cubic_early": _cubic_early}


def pruned(shape: str, surplus: int, n: int, d: int) -> tuple[int, int]:
    """Returns how much of `surplus` is pruned n steps into a window of d steps.

    The amount is a fraction (numerator, denominator), which the method rounds as its code does.
    """
    numerator, denominator = SHAPES[shape](n, d)
    return surplus * numerator, denominator
