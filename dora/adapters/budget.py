"""What a method may spend, and which components it spends it on.

A *component* is one rank-1 term B[:, i] g_i A[i, :] of a matrix of shape (d_out, d_in); storing it takes
d_in + d_out parameters (g is folded into B). A budget is given in one of two units:

* `r8`: the papers' convention, an average of 8 components a matrix when training ends. Not equal
  parameters: a component of a feed-forward matrix costs more than one of an attention matrix.
* `0.3M`, `300k`, `300_000`: adapter parameters stored when training ends, never exceeded.

Both are the same problem, to keep components up to a total cost; only the cost of one differs (1, or
d_in + d_out). Everything here counts in whole numbers, so nothing is lost to rounding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Matrix:
    """A linear layer that is adapted: its module name and shape (d_out, d_in)."""

    name: str
    d_in: int
    d_out: int

    @property
    def cost(self) -> int:
        """Parameters one component takes."""
        return self.d_in + self.d_out

    @property
    def full_rank(self) -> int:
        """Components beyond this many add nothing."""
        return min(self.d_in, self.d_out)


@dataclass(frozen=True)
class Budget:
    """An average rank (`r8`) or a number of adapter parameters; exactly one of the two is set."""

    rank: int | None = None
    params: int | None = None

    @staticmethod
    def parse(text: str) -> Budget:
        """Reads `r8`, `0.3M`, `300k`, `300_000`. Raises ValueError saying what is wrong and what to write."""
        given = text.strip()
        if match := re.fullmatch(r"r(-?\d+)", given):
            rank = int(match[1])
            if rank < 1:
                raise ValueError(f"budget={text}: an average rank is at least 1, such as r8")
            return Budget(rank=rank)
        match = re.fullmatch(r"([+-]?[\d_]*\.?\d[\d_]*(?:e[+-]?\d{1,2})?)([kM]?)", given)
        if not match:
            raise ValueError(
                f"budget={text} is not a budget: write an average rank (r8) or adapter parameters (0.3M, 300k)"
            )
        exact = Fraction(match[1].replace("_", "")) * {"": 1, "k": 1_000, "M": 1_000_000}[match[2]]
        if exact <= 0:
            raise ValueError(f"budget={text} must be above 0, such as r8 or 0.3M")
        if exact.denominator != 1:
            raise ValueError(f"budget={text} is not a whole number of parameters")
        if exact < 1_000 and not match[2]:
            raise ValueError(
                f"budget={text} reads as {exact} parameters: write r{exact} for an average rank, "
                f"{exact}k or {exact}M for parameters"
            )
        return Budget(params=int(exact))

    def __str__(self) -> str:
        """One spelling a budget, so that 0.3M and 300k are the same run."""
        return f"r{self.rank}" if self.rank is not None else str(self.params)

    def costs(self, matrices: Sequence[Matrix]) -> list[int]:
        """What a component of each matrix takes from this budget, in the budget's own unit."""
        return [1 if self.rank is not None else m.cost for m in matrices]

    def total(self, matrices: Sequence[Matrix]) -> int:
        """The whole budget in its own unit: components, or parameters."""
        return self.rank * len(matrices) if self.rank is not None else int(self.params or 0)

    def average_rank(self, matrices: Sequence[Matrix]) -> Fraction:
        """Components a matrix that the budget pays for if all matrices get the same, exactly."""
        return Fraction(self.total(matrices), sum(self.costs(matrices)))

    def problem(
        self, matrices: Sequence[Matrix], start_factor: Fraction = Fraction(1)
    ) -> str | None:
        """Why these matrices cannot hold this budget when training starts at `start_factor` times its rank."""
        cheapest = min(m.cost for m in matrices)
        if self.params is not None and self.params < cheapest:
            return f"budget={self} is less than the smallest component of this model ({cheapest} parameters)"
        start = math.ceil(self.average_rank(matrices) * start_factor)
        limit = min(m.full_rank for m in matrices)
        if start > limit:
            most = max(int(limit / start_factor), 1)
            params = most * sum(m.cost for m in matrices)
            return (
                f"budget={self} is larger than this model: it starts at rank {start} a matrix, the smallest "
                f"matrix has rank {limit}; at most r{most} or {params} parameters fit"
            )
        return None


def in_words(budget: str) -> str:
    """A budget as tables and figures print it: `0.3M` and `9k` where that is exact, else `13,824`; `r8` as it is.

    At most three digits before M or k, from 0.1M on M; `budget` is spelled as `str(Budget)` does, or `none`.
    """
    if not budget.isdigit():
        return budget
    number = int(budget)
    unit, name = (1_000_000, "M") if number >= 100_000 else (1_000, "k")
    short = f"{number / unit:.3g}"
    exact = 1_000 <= number < 1_000_000_000 and Fraction(short) * unit == number
    return f"{short}{name}" if exact else f"{number:,}"


@dataclass(frozen=True)
class Plan:
    """Where a run starts and what it may hold when it ends.

    `start`: rank of each matrix when training begins. `end`: the rank of each matrix at the end where that
    is known beforehand (LoRA), None where training decides it. `target`: the total at the end, in the
    budget's unit; less than the budget's own total only when `init_from` starts with less.
    """

    budget: Budget
    matrices: tuple[Matrix, ...]
    start: tuple[int, ...]
    end: tuple[int, ...] | None
    target: int

    @property
    def costs(self) -> list[int]:
        """Cost of one component of each matrix in the budget's unit."""
        return self.budget.costs(self.matrices)

    @property
    def start_total(self) -> int:
        """What the start ranks take, in the budget's unit."""
        return sum(r * c for r, c in zip(self.start, self.costs, strict=True))

    @property
    def start_params(self) -> int:
        """Adapter parameters when training begins."""
        return self.params(self.start)

    def params(self, ranks: Sequence[int]) -> int:
        """Adapter parameters stored at these ranks: the sum of rank (d_in + d_out)."""
        return sum(r * m.cost for r, m in zip(ranks, self.matrices, strict=True))

    def end_range(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(fewest, most) components and (fewest, most) parameters the end may have."""
        if self.end is not None:
            total, params = sum(self.end), self.params(self.end)
            return (total, total), (params, params)
        cheap = [c for m, r in zip(self.matrices, self.start, strict=True) for c in [m.cost] * r]
        cheap.sort()
        if self.budget.rank is not None:
            low, high = sum(cheap[: self.target]), sum(cheap[len(cheap) - self.target :])
            return (self.target, self.target), (low, high)
        most, least = _fill(cheap, self.target), _fill(cheap[::-1], self.target)
        return (least, most), (max(0, self.target - max(cheap) + 1), self.target)

    def missed(self, ranks: Sequence[int]) -> str | None:
        """Why a run that ended at `ranks` did not keep its budget; None if it did."""
        components = sum(ranks)
        if self.budget.rank is not None:
            if components != self.target:
                return f"{components} components live at the end, budget {self.budget} means {self.target}"
            return None
        params = self.params(ranks)
        if params > self.target:
            return f"{params} adapter parameters at the end exceed the budget of {self.target}"
        left = [m.cost for m, r, r0 in zip(self.matrices, ranks, self.start, strict=True) if r < r0]
        if left and self.target - params >= min(left):
            return (
                f"{params} adapter parameters at the end leave {self.target - params} of {self.target} "
                f"unused, where a component of {min(left)} was left out"
            )
        return None

    def describe(self) -> list[str]:
        """The plan in plain lines, printed before training."""
        (low, high), (low_params, high_params) = self.end_range()
        n = len(self.matrices)
        return [
            f"start: {sum(self.start)} components over {n} matrices, {self.start_params:,} adapter parameters",
            f"end:   {_span(low, high)} components, {_span(low_params, high_params)} adapter parameters "
            f"(budget {self.budget})",
        ]


def _fill(costs: Sequence[int], total: int) -> int:
    """How many of `costs`, taken in order while they fit, stay within `total`."""
    count = 0
    for cost in costs:
        if cost <= total:
            total, count = total - cost, count + 1
    return count


def _span(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def equal_ranks(budget: Budget, matrices: Sequence[Matrix]) -> tuple[int, ...]:
    """Fixed ranks for LoRA: the whole-number rank that fits everywhere, the rest dealt in layer order.

    Dealing goes round until no component fits, so the gap is below the cheapest component of the model.
    """
    costs, left = budget.costs(matrices), budget.total(matrices)
    base = left // sum(costs)
    ranks = [base] * len(matrices)
    left -= base * sum(costs)
    while left >= min(costs):
        for i, cost in enumerate(costs):
            if cost <= left:
                ranks[i], left = ranks[i] + 1, left - cost
    return tuple(ranks)


def start_ranks(budget: Budget, matrices: Sequence[Matrix], factor: Fraction) -> tuple[int, ...]:
    """The same start rank for every matrix: ceil(factor · average rank), 12 for r8 at factor 1.5."""
    return (math.ceil(budget.average_rank(matrices) * factor),) * len(matrices)


def pruning_plan(budget: Budget, matrices: tuple[Matrix, ...], start_factor: float) -> Plan:
    """The plan of a method that starts at `start_factor` times the budget and prunes down to it.

    Raises ValueError where that does not fit the matrices.
    """
    factor = Fraction(str(start_factor))
    if problem := budget.problem(matrices, factor):
        raise ValueError(problem)
    return Plan(
        budget, matrices, start_ranks(budget, matrices, factor), None, budget.total(matrices)
    )


def steps_of(value: float, total_steps: int) -> int:
    """A setting as steps: below 1 a fraction of the run (rounded toward zero), from 1 whole steps.

    The fraction is read as the decimal it was typed as: 0.35 of 180 steps is 63, where floats give 62.
    """
    return int(Fraction(str(value)) * total_steps) if value < 1 else int(value)


# u = n / d runs over the pruning window from 0 to 1; each gives the pruned share as (numerator, denominator).
SHAPES = {
    "cubic_late": lambda n, d: (n**3, d**3),  # u³: DoRA's released code
    "cubic_early": lambda n, d: (
        d**3 - (d - n) ** 3,
        d**3,
    ),  # 1 − (1 − u)³: AdaLoRA, eq. 14 as its code has it
}


def pruned(shape: str, surplus: int, n: int, d: int) -> tuple[int, int]:
    """How much of `surplus` is gone n steps into a window of d, as an exact fraction (numerator, denominator)."""
    num, den = SHAPES[shape](n, d)
    return surplus * num, den
