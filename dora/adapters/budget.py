"""Budgets: how much a method may store, and in which unit.

A *component* is one rank-1 term B[:, i] g_i A[i, :] of a matrix of shape (d_out, d_in); storing it
takes d_in + d_out parameters, since g is folded into B. A budget has one of two units:

* `r8`: the papers' convention, 8 components a matrix on average when training ends. Equal ranks are
  not equal parameters: a component of a feed-forward matrix costs more than one of an attention
  matrix.
* `0.3M`, `300k`, `300_000`: adapter parameters stored when training ends, never exceeded.

Both pose one problem: keep components up to a total cost. The cost of a component is 1 or
d_in + d_out. All counts are whole numbers, so nothing is lost to rounding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True)
class Matrix:
    """A linear layer that is adapted: its module name and its shape (d_out, d_in).

    `component_cost`: parameters that one component stores, if the method's components are not plain
    rank-1 terms. `fixed_cost`: parameters stored beside the components, however many there are.
    `input_of`: the module whose first argument the matrix reads, so that matrices of one module can
    be computed together; None if it reads another tensor.
    """

    name: str
    d_in: int
    d_out: int
    component_cost: int | None = None
    fixed_cost: int = 0
    input_of: str | None = field(default=None, compare=False)

    @property
    def cost(self) -> int:
        """Parameters that one component stores: d_in + d_out unless the method says otherwise."""
        return self.d_in + self.d_out if self.component_cost is None else self.component_cost

    @property
    def full_rank(self) -> int:
        """The most components that add anything: the smaller of the two dimensions."""
        return min(self.d_in, self.d_out)


@dataclass(frozen=True)
class Budget:
    """A budget: an average rank (`r8`) or a number of adapter parameters.

    Exactly one of the two fields is set.
    """

    rank: int | None = None
    params: int | None = None

    @staticmethod
    def parse(text: str) -> Budget:
        """Reads `r8`, `0.3M`, `300k` or `300_000`.

        Raises ValueError with a message that says what to write instead.
        """
        given = text.strip()
        if match := re.fullmatch(r"r(-?\d+)", given):
            rank = int(match[1])
            if rank < 1:
                raise ValueError(f"budget={text}: an average rank is at least 1, such as r8")
            return Budget(rank=rank)
        match = re.fullmatch(r"([+-]?[\d_]*\.?\d[\d_]*(?:e[+-]?\d{1,2})?)([kM]?)", given)
        if not match:
            raise ValueError(
                f"budget={text} is not a budget: write an average rank (r8) or adapter parameters "
                "(0.3M, 300k)"
            )
        # A fraction, not a float: it tells whether 0.0000015M is a whole number of parameters.
        exact = Fraction(match[1].replace("_", "")) * {"": 1, "k": 1_000, "M": 1_000_000}[match[2]]
        if exact <= 0:
            raise ValueError(f"budget={text} must be above 0, such as r8 or 0.3M")
        if exact.denominator != 1:
            raise ValueError(f"budget={text} is not a whole number of parameters")
        # `budget=8` most likely means r8: no adapter of a backbone has so few parameters.
        if exact < 1_000 and not match[2]:
            raise ValueError(
                f"budget={text} reads as {exact} parameters: write r{exact} for an average rank, "
                f"{exact}k or {exact}M for parameters"
            )
        return Budget(params=int(exact))

    def __str__(self) -> str:
        """Returns the one spelling of this budget, so that 0.3M and 300k are the same run."""
        return f"r{self.rank}" if self.rank is not None else str(self.params)

    @property
    def unit(self) -> str:
        """The name of what the budget counts, for messages."""
        return "component" if self.rank is not None else "parameter"

    def costs(self, matrices: Sequence[Matrix]) -> list[int]:
        """Returns the cost of one component of each matrix, in the budget's unit."""
        return [1 if self.rank is not None else m.cost for m in matrices]

    def total(self, matrices: Sequence[Matrix]) -> int:
        """Returns the whole budget in its unit: components, or parameters."""
        return self.rank * len(matrices) if self.rank is not None else int(self.params or 0)

    def for_components(self, matrices: Sequence[Matrix]) -> int:
        """Returns what the fixed costs of these matrices leave of the budget, in its unit."""
        fixed = 0 if self.rank is not None else sum(m.fixed_cost for m in matrices)
        return self.total(matrices) - fixed

    def spent(self, ranks: Sequence[int], matrices: Sequence[Matrix]) -> int:
        """Returns what these ranks take of the budget, in its unit."""
        fixed = self.total(matrices) - self.for_components(matrices)
        return fixed + sum(r * cost for r, cost in zip(ranks, self.costs(matrices), strict=True))

    def start_rank(self, matrices: Sequence[Matrix], factor: Fraction) -> int:
        """Returns one start rank for every matrix, ceil(factor · average rank): 12 for r8 at 1.5."""
        average = Fraction(self.for_components(matrices), sum(self.costs(matrices)))
        return math.ceil(average * factor)

    def problem(
        self, matrices: Sequence[Matrix], factor: Fraction = Fraction(1), capped: bool = True
    ) -> str | None:
        """Returns a message if these matrices cannot hold this budget, else None.

        `factor`: the rank that a method needs of a matrix divided by the budget's average rank. It
        is 1 unless the method starts with more and prunes, or divides its matrices into blocks.
        `capped`: whether a matrix holds no more components than its full rank.
        """
        if not matrices:
            return f"budget={self} has no matrix to be spent on: target= leaves the method none"
        cheapest = min(m.cost for m in matrices)
        fixed = sum(m.fixed_cost for m in matrices)
        if self.params is not None and self.params < fixed + cheapest:
            if fixed:
                return (
                    f"budget={self} is less than one component and what is stored beside the "
                    f"components ({fixed + cheapest} parameters)"
                )
            return (
                f"budget={self} is less than the smallest component of this model "
                f"({cheapest} parameters)"
            )
        # One rank for all matrices, so the smallest matrix limits it.
        needed = self.start_rank(matrices, factor)
        limit = min(m.full_rank for m in matrices)
        if capped and needed > limit:
            # The average rank may be a fraction: a number of parameters need not give whole ones.
            most = limit / factor
            params = int(most * sum(m.cost for m in matrices))
            ranks = f"r{int(most)} or " if most >= 1 else ""
            fits = f"at most {ranks}{params + fixed} parameters fit"
            if params < cheapest:
                fits = f"none fits that needs {float(factor):g} times its rank"
            return (
                f"budget={self} is larger than this model: it needs rank {needed} of a matrix, "
                f"the smallest matrix has rank {limit}; {fits}"
            )
        return None


def in_words(budget: str) -> str:
    """Spells a budget for tables and figures in three digits: `0.3M`, `13.8k`, `770`.

    `r8` stays as it is. M begins at 0.1M. `budget`: a budget as `str(Budget)` spells it, or `none`.
    """
    if not budget.isdigit():
        return budget
    number = int(budget)
    unit, name = (1_000_000, "M") if number >= 100_000 else (1_000, "k")
    return f"{number / unit:.3g}{name}" if 1_000 <= number < 999_500_000 else f"{number:,}"
