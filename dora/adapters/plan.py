"""A run's plan: the ranks at which it starts, and what it may hold when it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from dora.adapters.budget import Budget, Matrix
from dora.plain import number_range

# 2³² over the golden ratio. However many of its multiples modulo 2³² are taken, they lie evenly
# over the range, and with no period in step with that of the kinds of matrices.
_GOLDEN = 2_654_435_769
ENOUGH = 0.95  # the share of the budget below which a run is warned that it ended with too little


@dataclass(frozen=True)
class Plan:
    """The ranks at which a run starts, and the total that it may hold when it ends.

    `start`: rank of each matrix when training begins. `end`: rank of each matrix at the end if it
    is fixed beforehand (LoRA); None if training decides it, where a start below the target grows.
    `target`: the total at the end, in the budget's unit; less than the budget's own total only if
    `init_from` starts with less. `at_most`: the run may end below the target. `note`: a further
    line for the user to read before training. `dealt`: `start` follows from `equal_ranks` or from
    another run, so that it is equal for all seeds. If it then leaves matrices without a component,
    it is part of the run's fingerprint.
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
    def prunes(self) -> bool:
        """True if the run starts above its target, so that training has to remove components."""
        return self.start_total > self.target

    @property
    def start_params(self) -> int:
        """The number of adapter parameters when training begins."""
        return self.params(self.start)

    @property
    def most(self) -> tuple[int, ...]:
        """The rank that each matrix can end with: its start rank, its full rank if the run grows."""
        grows = self.end is None and self.start_total < self.target
        return tuple(m.full_rank for m in self.matrices) if grows else self.start

    def params(self, ranks: Sequence[int]) -> int:
        """Returns the adapter parameters stored at these ranks: Σ rank · cost + fixed cost."""
        return sum(r * m.cost + m.fixed_cost for r, m in zip(ranks, self.matrices, strict=True))

    def end_range(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns (fewest, most) components and (fewest, most) parameters at the end."""
        if self.end is not None:
            total, params = sum(self.end), self.params(self.end)
            return (total, total), (params, params)
        # The costs of all components that there can be, cheapest first. The cheapest and the
        # dearest choice among them bound whatever training keeps or adds.
        pairs = zip(self.matrices, self.most, strict=True)
        costs = sorted(m.cost for m, r in pairs for _ in range(r))
        fixed = sum(m.fixed_cost for m in self.matrices)
        if self.budget.rank is not None:
            low, high = sum(costs[: self.target]), sum(costs[len(costs) - self.target :])
            low, high = fixed + low, fixed + high
            components = (self.target, self.target)
        else:
            # The unused rest is smaller than some component left out, and so than the dearest one.
            low, high = max(fixed, self.target - max(costs, default=1) + 1), self.target
            left = self.target - fixed
            components = (_fill(costs[::-1], left), _fill(costs, left))
        return ((0, components[1]), (fixed, high)) if self.at_most else (components, (low, high))

    def costs_below(self, most: Sequence[int], ranks: Sequence[int]) -> list[int]:
        """Returns the cost of one component of each matrix that has fewer than `most` of them."""
        return [c for c, r, m in zip(self.costs, ranks, most, strict=True) if r < m]

    def missed(self, ranks: Sequence[int]) -> str | None:
        """Returns a message if a run that ended at `ranks` missed its budget, else None."""
        if self.budget.rank is not None:
            live = sum(ranks)
            if live == self.target or (self.at_most and live < self.target):
                return None
            return f"{live} components live at the end, budget {self.budget} means {self.target}"
        params = self.params(ranks)
        if params > self.target:
            return f"{params} adapter parameters at the end exceed the budget of {self.target}"
        left = self.costs_below(self.most, ranks)
        # A gap is allowed only if it is too small for any component that was given up or not added.
        if not self.at_most and left and self.target - params >= min(left):
            return (
                f"{params} adapter parameters at the end leave {self.target - params} of "
                f"{self.target} unused, where a component of {min(left)} was left out"
            )
        return None

    def falls_short(self, ranks: Sequence[int]) -> bool:
        """Tells whether `ranks` leave over 5 % of the target, and room for a component left out."""
        gap = self.target - self.budget.spent(ranks, self.matrices)
        left = self.costs_below(self.most, ranks)
        return bool(left) and gap >= min(left) and gap > (1 - ENOUGH) * self.target

    def describe(self) -> list[str]:
        """Returns the plan in plain lines, which are printed before training."""
        components, params = self.end_range()
        return [
            f"start: {sum(self.start)} components over {len(self.matrices)} matrices, "
            f"{self.start_params:,} adapter parameters",
            f"end:   {number_range(components)} components, {number_range(params)} adapter "
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


def equal_ranks(
    budget: Budget,
    matrices: Sequence[Matrix],
    spread: bool = True,
    blocks: int = 1,
    capped: bool = True,
) -> tuple[int, ...]:
    """Returns fixed ranks: the largest that every matrix can have, the rest dealt one by one.

    The rest goes to the matrices in front, in layer order. Where there are fewer components than
    matrices, that would leave the upper layers without any; with `spread` they are then dealt
    evenly over the layers. With `capped` no matrix gets more than its full rank, or than that of
    one of the `blocks` into which each is divided. The gap to the budget is smaller than the
    cheapest component of the matrices that may have more. All ranks are 0 if the fixed costs leave
    nothing.
    """
    costs, left = budget.costs(matrices), budget.for_components(matrices)
    base = max(0, left // sum(costs))
    ranks = [base] * len(matrices)
    # A base above a full rank stays: the caller refuses it, and names its whole size.
    most = [max(base + 1, m.full_rank // blocks) if capped else math.inf for m in matrices]
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
            if costs[i] <= left and ranks[i] < most[i]:
                ranks[i], left, dealt = ranks[i] + 1, left - costs[i], True
    return tuple(ranks)


def equal_plan(
    budget: Budget,
    matrices: tuple[Matrix, ...],
    spread: bool = True,
    blocks: int = 1,
    capped: bool = True,
) -> Plan:
    """Returns the plan of a method whose ranks are `equal_ranks` from start to end.

    `blocks`: divides every width. `capped`: whether a matrix has at most its full rank; more adds
    something only where the factors are not trained. Raises ValueError if the budget does not fit
    the matrices, or leaves one with a fixed cost without a component: its share of the budget would
    buy nothing.
    """
    ranks = equal_ranks(budget, matrices, spread, blocks, capped) if matrices else ()
    if any(m.fixed_cost and not rank for m, rank in zip(matrices, ranks, strict=True)):
        least = sum(m.cost + m.fixed_cost for m in matrices)
        raise ValueError(
            f"budget={budget} is less than one component of each matrix and what is stored beside "
            f"it ({least} parameters): raise it, or adapt fewer matrices (target=)"
        )
    # n blocks of rank r make an update of rank n r, which is at most the matrix's.
    if problem := budget.problem(matrices, Fraction(blocks), capped):
        raise ValueError(problem)
    return Plan(budget, matrices, ranks, ranks, budget.total(matrices), dealt=True)


def start_ranks(budget: Budget, matrices: Sequence[Matrix], factor: Fraction) -> tuple[int, ...]:
    """Returns one start rank for every matrix, ceil(factor · average rank): 12 for r8 at 1.5."""
    return (budget.start_rank(matrices, factor),) * len(matrices)


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
