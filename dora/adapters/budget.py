"""Budgets: how much a method may store, in which unit, and a run's plan for a model's matrices.

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

# 2³² over the golden ratio. Its multiples modulo 2³² lie evenly over the range wherever they end,
# and follow no period that kinds of matrices have.
_GOLDEN = 2_654_435_769
ENOUGH = 0.95  # the share of the budget below which a run is warned that it ended with too little


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

    def average_rank(self, matrices: Sequence[Matrix]) -> Fraction:
        """Returns the exact number of components per matrix if every matrix gets equally many."""
        return Fraction(self.for_components(matrices), sum(self.costs(matrices)))

    def problem(
        self, matrices: Sequence[Matrix], start_factor: Fraction = Fraction(1)
    ) -> str | None:
        """Returns a message if these matrices cannot hold this budget, else None.

        `start_factor`: the start ranks divided by the budget's average rank; 1 unless the method
        prunes.
        """
        if not matrices:
            return f"budget={self} has no matrix to be spent on: target= leaves the method none"
        cheapest = min(m.cost for m in matrices)
        if self.params is not None and self.params < cheapest:
            return (
                f"budget={self} is less than the smallest component of this model "
                f"({cheapest} parameters)"
            )
        # One start rank for all matrices, so the smallest matrix limits it.
        start = math.ceil(self.average_rank(matrices) * start_factor)
        limit = min(m.full_rank for m in matrices)
        if start > limit:
            # The average rank may be a fraction: a number of parameters need not give whole ones.
            most = limit / start_factor
            params = int(most * sum(m.cost for m in matrices)) + sum(m.fixed_cost for m in matrices)
            ranks = f"r{int(most)} or " if most >= 1 else ""
            fits = f"at most {ranks}{params} parameters fit"
            if params < cheapest:
                fits = f"none fits that starts at {float(start_factor):g} times its rank"
            return (
                f"budget={self} is larger than this model: it starts at rank {start} a matrix, "
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


@dataclass(frozen=True)
class Plan:
    """The ranks at which a run starts, and the total that it may hold when it ends.

    `start`: rank of each matrix when training begins. `end`: rank of each matrix at the end if it
    is fixed beforehand (LoRA), None if training decides it. `target`: the total at the end, in the
    budget's unit; less than the budget's own total only if `init_from` starts with less. `at_most`:
    the run may end below the target. `note`: what else the user should read of it before training.
    `dealt`: `start` is `equal_ranks` of the budget, a share of them, or another run's, and so the
    same for every seed; where that leaves matrices without a component, it names the run too.
    """

    budget: Budget
    matrices: tuple[Matrix, ...]
    start: tuple[int, ...]
    end: tuple[int, ...] | None
    target: int
    at_most: bool = False
    note: str | None = None
    dealt: bool = False

    @property
    def costs(self) -> list[int]:
        """The cost of one component of each matrix, in the budget's unit."""
        return self.budget.costs(self.matrices)

    @property
    def start_total(self) -> int:
        """The cost of the start ranks, in the budget's unit."""
        return self.budget.spent(self.start, self.matrices)

    @property
    def start_params(self) -> int:
        """The number of adapter parameters when training begins."""
        return self.params(self.start)

    def params(self, ranks: Sequence[int]) -> int:
        """Returns the adapter parameters stored at these ranks: Σ rank · cost + fixed cost."""
        return sum(r * m.cost + m.fixed_cost for r, m in zip(ranks, self.matrices, strict=True))

    def end_range(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns (fewest, most) components and (fewest, most) parameters at the end."""
        if self.end is not None:
            total, params = sum(self.end), self.params(self.end)
            return (total, total), (params, params)
        # The costs of all components at the start, cheapest first: whichever of them training
        # keeps, the cheapest and the dearest choice bound the result.
        cheap = [c for m, r in zip(self.matrices, self.start, strict=True) for c in [m.cost] * r]
        cheap.sort()
        fixed = sum(m.fixed_cost for m in self.matrices)
        if self.budget.rank is not None:
            low, high = sum(cheap[: self.target]), sum(cheap[len(cheap) - self.target :])
            low, high = fixed + low, fixed + high
            components = (self.target, self.target)
        else:
            # The gap is smaller than some component left out, so than the dearest one.
            low, high = max(fixed, self.target - max(cheap, default=1) + 1), self.target
            left = self.target - fixed
            components = (_fill(cheap[::-1], left), _fill(cheap, left))
        return ((0, components[1]), (fixed, high)) if self.at_most else (components, (low, high))

    def missed(self, ranks: Sequence[int]) -> str | None:
        """Returns a message if a run that ended at `ranks` missed its budget, else None."""
        if self.budget.rank is not None:
            return self._missed_components(sum(ranks))
        params = self.params(ranks)
        if params > self.target:
            return f"{params} adapter parameters at the end exceed the budget of {self.target}"
        left = [m.cost for m, r, r0 in zip(self.matrices, ranks, self.start, strict=True) if r < r0]
        # A gap is allowed only if it is too small for any component that was given up.
        if not self.at_most and left and self.target - params >= min(left):
            return (
                f"{params} adapter parameters at the end leave {self.target - params} of "
                f"{self.target} unused, where a component of {min(left)} was left out"
            )
        return None

    def falls_short(self, ranks: Sequence[int]) -> bool:
        """Tells whether `ranks` leave over 5 % of the target, and room for a component given up."""
        gap = self.target - self.budget.spent(ranks, self.matrices)
        given_up = [c for c, r, r0 in zip(self.costs, ranks, self.start, strict=True) if r < r0]
        return bool(given_up) and gap >= min(given_up) and gap > (1 - ENOUGH) * self.target

    def _missed_components(self, components: int) -> str | None:
        """Returns a message if a rank budget's number of components is missed, else None."""
        if components == self.target or (self.at_most and components < self.target):
            return None
        return f"{components} components live at the end, budget {self.budget} means {self.target}"

    def describe(self) -> list[str]:
        """Returns the plan in plain lines, which are printed before training."""
        (low, high), (low_params, high_params) = self.end_range()
        return [
            f"start: {sum(self.start)} components over {len(self.matrices)} matrices, "
            f"{self.start_params:,} adapter parameters",
            f"end:   {_span(low, high)} components, {_span(low_params, high_params)} adapter "
            f"parameters (budget {self.budget})",
            *([self.note] if self.note else []),
        ]


def _fill(costs: Sequence[int], total: int) -> int:
    """Returns how many of `costs`, in order and skipping those that don't fit, fill `total`."""
    count = 0
    for cost in costs:
        if cost <= total:
            total, count = total - cost, count + 1
    return count


def _span(low: int, high: int) -> str:
    """Spells a range of whole numbers: `8` or `8 to 12`."""
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def equal_ranks(
    budget: Budget, matrices: Sequence[Matrix], spread: bool = True, blocks: int = 1
) -> tuple[int, ...]:
    """Returns fixed ranks: the largest that every matrix can have, the rest dealt one by one.

    The rest goes to the matrices in front, in layer order. Where there are fewer components than
    matrices, that would leave the upper layers without any; with `spread` they are then dealt
    evenly over the layers. No matrix gets more than its full rank, or than that of one of the
    `blocks` into which each is divided. The gap to the budget is smaller than the cheapest
    component of the matrices that have less.
    """
    costs, left = budget.costs(matrices), budget.for_components(matrices)
    base = left // sum(costs)
    ranks = [base] * len(matrices)
    left -= base * sum(costs)
    order = list(range(len(matrices)))
    if base == 0 and spread:
        order.sort(key=lambda i: i * _GOLDEN % 2**32)
    # Rounds of one component each: a component that no longer fits leaves room for cheaper ones
    # behind it.
    dealt = True
    while dealt:
        dealt = False
        for i in order:
            # A base above a full rank is for the caller to refuse, by its whole size.
            if costs[i] <= left and ranks[i] < max(base + 1, matrices[i].full_rank // blocks):
                ranks[i], left, dealt = ranks[i] + 1, left - costs[i], True
    return tuple(ranks)


def equal_plan(
    budget: Budget, matrices: tuple[Matrix, ...], spread: bool = True, blocks: int = 1
) -> Plan:
    """Returns the plan of a method whose ranks are `equal_ranks` from start to end.

    `blocks`: divides every width. Raises ValueError if the budget does not fit the matrices.
    """
    # n blocks of rank r make an update of rank n r, which is at most the matrix's.
    if problem := budget.problem(matrices, Fraction(blocks)):
        raise ValueError(problem)
    ranks = equal_ranks(budget, matrices, spread, blocks)
    return Plan(budget, matrices, ranks, ranks, budget.total(matrices), dealt=True)


def start_ranks(budget: Budget, matrices: Sequence[Matrix], factor: Fraction) -> tuple[int, ...]:
    """Returns one start rank for every matrix, ceil(factor · average rank): 12 for r8 at 1.5."""
    return (math.ceil(budget.average_rank(matrices) * factor),) * len(matrices)


def pruning_plan(budget: Budget, matrices: tuple[Matrix, ...], start_factor: float) -> Plan:
    """Returns the plan of a method that starts above the budget and prunes down to it.

    `start_factor`: the start ranks divided by the budget's average rank. Raises ValueError if that
    does not fit the matrices.
    """
    factor = Fraction(str(start_factor))  # the decimal as typed: 1.1 as a float is a little more
    if problem := budget.problem(matrices, factor):
        raise ValueError(problem)
    start = start_ranks(budget, matrices, factor)
    return Plan(budget, matrices, start, None, budget.total(matrices))
