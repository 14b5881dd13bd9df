"""Budgets and plans beside plain Python, and beside the papers' arithmetic on real shapes."""

import itertools
import math
import re
from fractions import Fraction

import pytest
import torch
from budgets import SHAPES, greedy
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from conftest import METHODS, linears, tiny, train_head_only
from dora.adapters.budget import Budget, Matrix
from dora.adapters.changes import apply
from dora.adapters.plan import Plan, equal_plan, equal_ranks, pruning_plan, start_ranks
from dora.adapters.pruning import pruned, steps_of
from dora.methods.base import RunInfo

shapes = st.sampled_from(list(SHAPES))
quick = settings(max_examples=60, deadline=None)


# --- the numbers of the papers ---


# d_in + d_out over the matrices: a layer of base size has 4 x 1,536 and 2 x 3,840.
@pytest.mark.parametrize(
    ("shape", "count", "per_rank"),
    [
        ("roberta-base", 72, 165_888),
        ("deberta-v3-base", 72, 165_888),
        ("q and v", 24, 36_864),
        ("roberta-large", 144, 442_368),
    ],
)
def test_parameters_per_unit_of_rank(shape, count, per_rank):
    matrices = SHAPES[shape]
    assert len(matrices) == count
    assert sum(m.d_in + m.d_out for m in matrices) == per_rank
    assert sum(m.cost for m in matrices) == per_rank


def test_r8_on_roberta_base_is_1327104_parameters_for_lora():
    plan = METHODS["lora"][1].plan(
        METHODS["lora"][0](), Budget(rank=8), SHAPES["roberta-base"], RunInfo(100, 3)
    )
    assert plan.start == plan.end == (8,) * 72
    assert plan.start_params == 1_327_104
    assert plan.end_range() == ((576, 576), (1_327_104, 1_327_104))


def test_r8_on_roberta_base_is_between_088m_and_155m_parameters_for_dora():
    plan = METHODS["dora"][1].plan(
        METHODS["dora"][0](), Budget(rank=8), SHAPES["roberta-base"], RunInfo(100, 3)
    )
    assert plan.start == (12,) * 72
    assert plan.start_params == 1_990_656  # 1.991M at r12
    # The fewest: 48 attention matrices take all 576 components. The most: 24 feed-forward matrices
    # take the 288 that they start with, and attention the rest.
    assert plan.end_range() == ((576, 576), (576 * 1_536, 288 * 3_840 + 288 * 1_536))
    assert plan.describe() == [
        "start: 864 components over 72 matrices, 1,990,656 adapter parameters",
        "end:   576 components, 884,736 to 1,548,288 adapter parameters (budget r8)",
    ]


# --- parsing ---


@pytest.mark.parametrize(
    "text", ["0.3M", "300k", "300_000", "300000", " 0.30M ", ".3M", "3e5", "0.0003e3M"]
)
def test_spellings_of_one_budget_are_the_same_budget(text):
    assert Budget.parse(text) == Budget(params=300_000)
    assert str(Budget.parse(text)) == "300000"


@pytest.mark.parametrize(("text", "rank"), [("r8", 8), ("r1", 1), (" r64 ", 64)])
def test_an_average_rank_is_spelt_with_r(text, rank):
    assert Budget.parse(text) == Budget(rank=rank)
    assert str(Budget.parse(text)) == f"r{rank}"


@quick
@given(st.integers(1, 10**9))
@example(1_000)
def test_a_budgets_own_spelling_parses_to_itself(n):
    for budget in (Budget(rank=n), Budget(params=n)):
        if budget.rank or n >= 1000:  # smaller numbers are refused, as a forgotten r
            assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("r0", "an average rank is at least 1, such as r8"),
        ("r-2", "an average rank is at least 1, such as r8"),
        ("0", "must be above 0, such as r8 or 0.3M"),
        ("-3k", "must be above 0, such as r8 or 0.3M"),
        ("0.0003k", "is not a whole number of parameters"),
        ("1.5", "is not a whole number of parameters"),
        ("8", "reads as 8 parameters: write r8 for an average rank, 8k or 8M for parameters"),
        ("999", "reads as 999 parameters"),
        ("r8.5", "is not a budget"),
        ("eight", "is not a budget: write an average rank (r8) or adapter parameters (0.3M, 300k)"),
        ("", "is not a budget"),
        ("3m", "is not a budget"),
        ("3 M", "is not a budget"),
        ("nan", "is not a budget"),
        ("inf", "is not a budget"),
        ("_k", "is not a budget"),
    ],
)
def test_what_is_no_budget_is_refused_with_what_to_write(text, said):
    with pytest.raises(ValueError, match=r"^budget=") as error:
        Budget.parse(text)
    assert said in str(error.value)


# As a fraction either would have 5,000 digits.
@pytest.mark.parametrize("text", ["1e5000", "1e-5000"])
def test_an_absurd_exponent_is_refused_rather_than_computed(text):
    with pytest.raises(ValueError, match=r"^budget="):
        Budget.parse(text)


# --- plans ---


@quick
@given(shapes, st.integers(1, 64))
def test_plans_in_ranks_are_exact(shape, rank):
    matrices, budget = SHAPES[shape], Budget(rank=rank)
    # A budget in ranks leaves nothing to deal out. ceil(3 r / 2), in whole numbers.
    assert equal_ranks(budget, matrices) == (rank,) * len(matrices)
    assert start_ranks(budget, matrices, Fraction(3, 2)) == (-(-3 * rank // 2),) * len(matrices)
    if budget.problem(matrices, Fraction(3, 2)) is None:
        for method in ("adalora", "dora"):
            kind, cls = METHODS[method]
            plan = cls.plan(kind(), budget, matrices, RunInfo(100, 3))
            assert plan.target == rank * len(matrices)
            assert plan.start_total == -(-3 * rank // 2) * len(matrices)


@quick
@given(shapes, st.integers(1_000, 3_000_000))
def test_dealing_parameters_never_exceeds_and_leaves_less_than_a_component(shape, params):
    matrices, budget = SHAPES[shape], Budget(params=params)
    ranks = equal_ranks(budget, matrices)
    spent = sum(r * (m.d_in + m.d_out) for r, m in zip(ranks, matrices, strict=True))
    assert spent <= params  # a parameter budget is never exceeded
    room = [m.cost for m, rank in zip(matrices, ranks, strict=True) if rank < m.full_rank]
    assert params - spent < min(room, default=params)


@quick
@given(shapes, st.sampled_from(["adalora", "dora", "lora"]), st.integers(2_048, 3_000_000))
def test_a_plan_in_parameters_starts_with_at_least_its_budget_or_says_why_not(
    shape, method, params
):
    # From 2,048 on the smallest component of every shape fits, so a budget can only be too large.
    matrices, (kind, cls) = SHAPES[shape], METHODS[method]
    budget = Budget(params=params)
    if budget.problem(matrices, Fraction(1 if method == "lora" else "1.5")):
        with pytest.raises(ValueError, match="larger than this model"):
            cls.plan(kind(), budget, matrices, RunInfo(100, 3))
        return
    plan = cls.plan(kind(), budget, matrices, RunInfo(100, 3))
    assert plan.target == params
    if method == "lora":
        assert plan.missed(plan.end) is None
    else:
        assert plan.start_params >= params
        assert plan.start_params == plan.start_total
        assert len(set(plan.start)) == 1
        assert plan.start[0] == math.ceil(Fraction(3 * params, 2 * sum(m.cost for m in matrices)))


def test_a_start_factor_is_the_decimal_that_was_typed():
    # The float 1.1 is a little more than 11/10, and 11.000…1 components would be 12.
    assert set(pruning_plan(Budget(rank=10), SHAPES["tiny"], 1.1).start) == {11}


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (
            Budget(params=1_000),
            "budget=1000 is less than the smallest component of this model (1536 parameters)",
        ),
        (
            Budget(rank=513),
            "it needs rank 770 of a matrix, the smallest matrix has rank 768; "
            "at most r512 or 84934656",
        ),
        (Budget(params=10**8), "budget=100000000 is larger than this model: it needs rank 905"),
    ],
)
def test_a_budget_that_does_not_fit_says_what_would(budget, said):
    assert said in budget.problem(SHAPES["roberta-base"], Fraction(3, 2))
    with pytest.raises(ValueError, match="budget="):
        METHODS["dora"][1].plan(
            METHODS["dora"][0](), budget, SHAPES["roberta-base"], RunInfo(100, 3)
        )


@quick
@given(shapes, st.fractions(1, 3))
def test_the_largest_budget_that_is_offered_does_fit(shape, factor):
    matrices = SHAPES[shape]
    # The way out that the message names must be one.
    message = Budget(rank=10**6).problem(matrices, factor)
    offered = message.split("at most ")[1].removesuffix(" parameters fit")
    rank, params = (int(n.strip("r")) for n in offered.split(" or "))
    assert Budget(rank=rank).problem(matrices, factor) is None
    assert Budget(params=params).problem(matrices, factor) is None
    assert Budget(rank=rank + 1).problem(matrices, factor) is not None


# Factors over the smallest full rank too: not one rank fits then, nor does every number.
@quick
@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=4),
    st.fractions(1, 5, max_denominator=8),
    st.integers(0, 20),
)
def test_the_budgets_that_are_offered_are_the_largest_of_all(sizes, factor, fixed):
    matrices = tuple(Matrix(f"m{i}", a, b, fixed_cost=fixed) for i, (a, b) in enumerate(sizes))

    def largest(spelt, budgets):
        fitting = [n for n, b in budgets if b.problem(matrices, factor) is None]
        return [f"{spelt}{max(fitting)}"] if fitting else []

    # As much as one component more than the full rank of every matrix.
    above = sum(m.fixed_cost + (m.full_rank + 1) * m.cost for m in matrices)
    offered = [
        *largest("r", [(n, Budget(rank=n)) for n in range(1, 10)]),
        *largest("", [(n, Budget(params=n)) for n in range(1, above + 1)]),
    ]
    said = f"none fits that needs {float(factor):g} times its rank"
    if offered:
        said = f"at most {' or '.join(offered)} parameters fit"
    for refused in (Budget(rank=10), Budget(params=above + 1)):
        assert refused.problem(matrices, factor).endswith(f"; {said}")


def test_a_limit_that_no_whole_rank_reaches_is_offered_to_the_last_parameter():
    # Matrices of 20, 24 and 24 parameters a component: 8 / 3 of each.
    matrices = (Matrix("a", 12, 8), Matrix("b", 8, 16), Matrix("c", 16, 8))
    message = Budget(params=300).problem(matrices, Fraction(3))
    assert message.endswith("the smallest matrix has rank 8; at most r2 or 181 parameters fit")
    assert Budget(params=181).problem(matrices, Fraction(3)) is None
    assert Budget(params=182).problem(matrices, Fraction(3)) is not None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=4
    ),
    st.data(),
)
def test_the_range_of_ends_holds_every_end_that_greedy_selection_can_reach(sizes, data):
    """Tries all orders of a few components.

    The range is exact for a budget in ranks, and encloses the ends of one in parameters.
    """
    matrices = tuple(Matrix(f"m{i}", a, b) for i, (a, b, _) in enumerate(sizes))
    start = tuple(r for *_, r in sizes)
    n = sum(start)
    assume(1 <= n <= 6)  # 720 orders at most
    costs = [m.cost for m, r in zip(matrices, start, strict=True) for _ in range(r)]
    in_ranks = data.draw(st.booleans())
    target = data.draw(st.integers(1, n if in_ranks else sum(costs)))
    budget = Budget(rank=1) if in_ranks else Budget(params=target)
    plan = Plan(budget, matrices, start, None, target)
    assert plan.start_total == (n if in_ranks else sum(costs))

    ends = set()
    for order in itertools.permutations(range(n)):
        live = greedy([order.index(i) for i in range(n)], [1] * n if in_ranks else costs, target)
        ends.add((sum(live), sum(c for c, k in zip(costs, live, strict=True) if k)))
    (low, high), (low_params, high_params) = plan.end_range()
    counts, params = [c for c, _ in ends], [p for _, p in ends]
    assert low <= min(counts)
    assert max(counts) <= high
    assert low_params <= min(params)
    assert max(params) <= high_params
    if in_ranks:
        assert (low_params, high_params) == (min(params), max(params))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([3, 5])), min_size=1, max_size=4),
    st.booleans(),
    st.data(),
)
def test_a_run_that_starts_below_its_budget_must_grow_into_it_and_its_range_holds_every_end(
    sizes, in_ranks, data
):
    """Tries all ranks that the matrices can have."""
    matrices = tuple(Matrix(f"m{i}", d, 9, component_cost=c) for i, (d, c) in enumerate(sizes))
    full = [m.full_rank for m in matrices]
    costs = [1 if in_ranks else m.cost for m in matrices]
    start = tuple(data.draw(st.integers(0, rank)) for rank in full)
    below, whole = (sum(r * c for r, c in zip(x, costs, strict=True)) for x in (start, full))
    assume(below < whole)
    target = data.draw(st.integers(below + 1, whole))
    budget = Budget(rank=1) if in_ranks else Budget(params=target)
    plan = Plan(budget, matrices, start, None, target)

    ends = []
    for ranks in itertools.product(*(range(rank + 1) for rank in full)):
        gap = target - sum(r * c for r, c in zip(ranks, costs, strict=True))
        room = [c for r, c, most in zip(ranks, costs, full, strict=True) if r < most]
        met = gap == 0 or 0 < gap < min(room)
        assert (plan.missed(ranks) is None) == met
        assert plan.falls_short(ranks) == (gap > 0.05 * target and not met)
        if met:
            ends.append((sum(ranks), sum(r * m.cost for r, m in zip(ranks, matrices, strict=True))))
    (low, high), (low_params, high_params) = plan.end_range()
    # The numbers of components are exact where there are two costs, as in every backbone.
    counts, params = [c for c, _ in ends], [p for _, p in ends]
    assert (low, high) == (min(counts), max(counts))
    assert low_params <= min(params)
    assert max(params) <= high_params
    if in_ranks:
        assert (low_params, high_params) == (min(params), max(params))


def test_a_run_that_never_grows_misses_its_budget():
    matrices = (Matrix("a", 3, 3), Matrix("b", 5, 5))  # 6 and 10 parameters a component
    plan = Plan(Budget(params=40), matrices, (1, 1), None, 40)
    said = "16 adapter parameters at the end leave 24 of 40 unused, where a component of 6"
    assert said in plan.missed((1, 1))
    assert plan.missed((3, 2)) is None  # 38 of 40; a is full, and b's next component takes 10
    assert plan.end_range() == ((4, 5), (31, 40))
    assert Plan(Budget(rank=2), matrices, (1, 1), None, 4).end_range() == ((4, 4), (28, 40))
    # Ranks that are fixed beforehand, here 3 and 2, have no range.
    assert equal_plan(Budget(params=40), matrices).end_range() == ((5, 5), (38, 38))
    bound = Plan(Budget(params=40), matrices, (1, 1), None, 40, at_most=True)
    assert bound.missed((1, 1)) is None
    assert bound.falls_short((1, 1))


def test_a_method_that_finds_no_matrix_says_so():
    with pytest.raises(ValueError, match="budget=r2 has no matrix to be spent on: target="):
        equal_plan(Budget.parse("r2"), ())


def fixed_of(*fixed: int) -> tuple[Matrix, ...]:
    """Matrices of 4 x 6 whose components cost 1, as VeRA's do, with these fixed costs."""
    return tuple(Matrix(str(i), 4, 6, 1, fixed_cost=f) for i, f in enumerate(fixed))


def test_a_budget_below_the_fixed_costs_and_one_component_is_refused() -> None:
    matrices = fixed_of(6, 6, 5)
    said = "is less than one component and what is stored beside the components (18 parameters)"
    for params in (1, 10, 17):
        assert Budget(params=params).problem(matrices) == f"budget={params} {said}"
        assert equal_ranks(Budget(params=params), matrices) == (0, 0, 0)
        with pytest.raises(ValueError, match=re.escape(said)):
            pruning_plan(Budget(params=params), matrices, 1.5)
    assert Budget(params=18).problem(matrices) is None
    assert Budget(rank=1).problem(matrices) is None  # counts components alone


def test_equal_ranks_leave_no_fixed_cost_without_a_component() -> None:
    said = "of each matrix and what is stored beside it (20 parameters): raise it, or adapt fewer"
    for params in (1, 17, 18, 19):
        with pytest.raises(ValueError, match=re.escape(f"budget={params} is less than")) as told:
            equal_plan(Budget(params=params), fixed_of(6, 6, 5))
        assert said in str(told.value)
    assert equal_plan(Budget(params=20), fixed_of(6, 6, 5)).start == (1, 1, 1)
    # A matrix without a fixed cost may go without components; here the first is dealt one first.
    assert equal_plan(Budget(params=7), fixed_of(6, 0, 0), spread=False).start == (1, 0, 0)


@quick
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.data())
def test_a_plan_of_equal_ranks_spends_all_that_the_fixed_costs_leave(fixed, data):
    matrices, least = fixed_of(*fixed), sum(fixed) + len(fixed)
    params = data.draw(st.integers(least, sum(fixed) + 4 * len(fixed)))
    plan = equal_plan(Budget(params=params), matrices)
    assert plan == equal_plan(Budget(params=params), matrices, capped=False)
    assert plan.missed(plan.start) is None
    assert sum(plan.start) == params - sum(fixed)
    assert 1 <= min(plan.start) <= max(plan.start) <= min(plan.start) + 1
    if all(fixed):
        with pytest.raises(ValueError, match="raise it, or adapt fewer matrices"):
            equal_plan(Budget(params=least - 1), matrices)


def test_ranks_above_the_matrixs_are_refused_unless_the_method_allows_them() -> None:
    matrices = (Matrix("a", 4, 6), Matrix("b", 8, 8))  # 10 and 16 parameters a component
    for budget, ranks in ((Budget(rank=9), (9, 9)), (Budget(params=26 * 8 + 10), (9, 8))):
        with pytest.raises(ValueError, match="larger than this model: it needs rank"):
            equal_plan(budget, matrices)
        plan = equal_plan(budget, matrices, capped=False)
        assert plan.start == plan.end == ranks == equal_ranks(budget, matrices, capped=False)
        assert plan.missed(plan.start) is None
    # No component of b fits: what is left of the budget buys those of a.
    uneven, budget = (Matrix("a", 2, 2), Matrix("b", 40, 40)), Budget(params=70)
    assert equal_ranks(budget, uneven) == (2, 0)
    assert equal_ranks(budget, uneven, capped=False) == (17, 0)
    with pytest.raises(ValueError, match="less than the smallest component"):
        equal_plan(Budget(params=9), matrices, capped=False)


def test_blocks_are_told_the_rank_that_they_need_of_a_matrix() -> None:
    matrices = (Matrix("a", 192, 192),)
    said = r"r97 .* it needs rank 194 of a matrix, .* 192; at most r96"
    with pytest.raises(ValueError, match=said):
        equal_plan(Budget(rank=97), matrices, blocks=2)


def test_missed_tells_too_many_too_few_and_too_much_left():
    matrices = (Matrix("a", 3, 3), Matrix("b", 5, 5))  # 6 and 10 parameters a component
    in_ranks = Plan(Budget(rank=2), matrices, (3, 3), None, 4)
    assert in_ranks.missed((3, 1)) is None
    assert in_ranks.missed((3, 2)) == "5 components live at the end, budget r2 means 4"
    assert in_ranks.missed((0, 3)) == "3 components live at the end, budget r2 means 4"
    in_params = Plan(Budget(params=30), matrices, (3, 3), None, 30)
    assert in_params.missed((0, 3)) is None  # 30 of 30
    assert in_params.missed((3, 1)) is None  # 28 of 30; b's next component takes 10
    assert "36 adapter parameters at the end exceed the budget of 30" in in_params.missed((1, 3))
    assert "leave 12 of 30 unused, where a component of 10 was left out" in in_params.missed((3, 0))
    # 22 of 28 leave room for just one more of 6; 22 of 27 do not.
    for total, said in (
        (28, "leave 6 of 28 unused, where a component of 6 was left out"),
        (27, ""),
    ):
        found = Plan(Budget(params=total), matrices, (3, 3), None, total).missed((2, 1))
        assert said in (found or "")
        assert (found is None) == (not said)


def test_a_run_falls_short_below_95_percent_with_room_for_a_component_given_up():
    one, dear = Matrix("a", 8, 8, 1), Matrix("b", 8, 8, 7)
    for budget in (Budget(params=100), Budget(rank=100)):
        plan = Plan(budget, (one,), (120,), None, 100)
        assert (plan.falls_short((94,)), plan.falls_short((95,))) == (True, False)
    # No component was given up, or can be added.
    assert not Plan(Budget(params=100), (one,), (5,), (5,), 100).falls_short((5,))
    assert not Plan(Budget(params=100), (one,), (2,), None, 100).falls_short((8,))
    # 94 of 100 leave no room for one of 7; 93 do.
    for rank, short in ((87, False), (86, True)):
        plan = Plan(Budget(params=100), (one, dear), (rank, 2), None, 100)
        assert plan.falls_short((rank, 1)) == short


def test_fixed_costs_count_for_a_number_of_parameters_and_not_for_ranks():
    # 6 and 10 a component.
    matrices = (Matrix("a", 8, 8, 6, fixed_cost=10), Matrix("b", 8, 8, 10))
    in_params, in_ranks = Budget(params=66), Budget(rank=2)
    assert in_params.spent((2, 3), matrices) == 10 + 12 + 30
    assert in_ranks.spent((2, 3), matrices) == 5
    assert equal_ranks(in_params, matrices) == (4, 3)  # 64 of 66
    assert equal_ranks(in_ranks, matrices) == (2, 2)
    # 24 of 34 are left for components: three of 6, or two of 10.
    assert Plan(Budget(params=34), matrices, (3, 3), None, 34).end_range() == ((2, 3), (25, 34))
    assert Plan(in_ranks, matrices, (3, 3), None, 4).end_range() == ((4, 4), (38, 46))
    # A start from a run in which every gate died: the fixed costs alone are its target.
    assert Plan(Budget(params=34), matrices, (0, 0), None, 10).end_range() == ((0, 0), (10, 10))


# --- schedules ---


# As floats 0.35 x 180 is 62.99…, and 62 steps.
@pytest.mark.parametrize(
    ("value", "total", "steps"),
    [
        (0.35, 180, 63),
        (0.15, 1000, 150),
        (0.0125, 8025, 100),
        (0.06, 20, 1),
        (0.0, 9, 0),
        (1.0, 9, 1),
        (100.0, 9, 100),
    ],
)
def test_fractions_become_steps_as_the_decimals_they_were_typed_as(value, total, steps):
    assert steps_of(value, total) == steps


@quick
@given(st.integers(0, 10_000), st.integers(0, 300), st.integers(1, 300))
def test_both_shapes_run_from_nothing_to_everything_and_mirror_each_other(surplus, n, d):
    assume(n <= d)
    # In fractions, so that the comparison itself rounds nothing.
    late, early = (pruned(shape, surplus, n, d) for shape in ("cubic_late", "cubic_early"))
    assert late == surplus * Fraction(n, d) ** 3
    assert early == surplus * (1 - (1 - Fraction(n, d)) ** 3)
    assert 0 <= late <= early <= surplus
    if n in (0, d):
        assert late == early == surplus * n // d


# --- whole runs ---


@pytest.mark.parametrize("remove_", [False, True])
@pytest.mark.parametrize("budget", ["r8", "r3", "5_000", "3_501", "7k"])
@pytest.mark.parametrize("method", ["adalora", "dora"])
@pytest.mark.parametrize("architecture", ["roberta", "deberta-v2"])
def test_a_run_of_allocations_ends_within_its_budget(architecture, method, budget, remove_):
    kind, cls = METHODS[method]
    chosen = kind(remove=remove_)
    model = tiny(architecture)
    train_head_only(model)
    plan = cls.plan(chosen, Budget.parse(budget), linears(model), RunInfo(100, 3))
    run = cls(chosen, model, plan, RunInfo(40, 1))
    layers = list(run.layers.values())
    random = torch.Generator().manual_seed(7)
    # Random weights and gradients in every step give random scores, and revive what was masked.
    for step in range(1, 41):
        for layer in layers:
            for p in layer.factors().values():
                p.data = torch.randn(p.shape, generator=random)
                p.grad = torch.randn(p.shape, generator=random)
        if (decision := run.after_step(step)) is not None:
            apply(decision, layers)
        if step >= run.ranks_final_at:
            ranks = [int(layer.live().sum()) for layer in layers]
            assert plan.missed(ranks) is None
    assert sum(ranks) < sum(plan.start)
    if remove_:  # nothing masked is left in the layers
        assert ranks == [layer.rank for layer in layers]
    (low, high), (low_params, high_params) = plan.end_range()
    assert low <= sum(ranks) <= high
    assert low_params <= plan.params(ranks) <= high_params


def per_layer(ranks: tuple[int, ...], kinds: int = 6) -> list[int]:
    """Returns the components of each layer."""
    return [sum(ranks[at : at + kinds]) for at in range(0, len(ranks), kinds)]


# Fewer components than matrices: RoBERTa-large at 0.3M had all of them in 17 of its 24 layers.
def test_components_that_are_fewer_than_matrices_are_dealt_evenly_over_the_layers() -> None:
    matrices, budget = SHAPES["roberta-large"], Budget.parse("0.3M")
    first = equal_ranks(budget, matrices, spread=False)
    assert sum(n > 0 for n in per_layer(first)) == 17
    spread = equal_ranks(budget, matrices)
    assert min(per_layer(spread)) >= 3
    assert max(per_layer(spread)) <= 6
    # Kinds are not taken in turn with the layers: each has its share.
    by_kind = [sum(spread[kind::6]) for kind in range(6)]
    assert max(by_kind) - min(by_kind) <= 4
    # As close to the budget as before, and never above.
    cheapest = min(budget.costs(matrices))
    for ranks in (first, spread):
        assert 0 <= 300_000 - budget.spent(ranks, matrices) < cheapest


def test_any_number_of_components_is_spread_over_the_layers() -> None:
    square = tuple(Matrix(str(i), 8, 8) for i in range(72))  # 12 layers of 6
    for count in range(1, 72):
        layers = per_layer(equal_ranks(Budget(params=16 * count), square))
        assert sum(layers) == count
        assert max(layers) - min(layers) <= 2, count


def test_no_matrix_gets_more_components_than_its_full_rank() -> None:
    # What a large matrix cannot have is not dealt to small ones beyond all measure.
    mixed = (*(Matrix(str(i), 16, 16) for i in range(4)), Matrix("large", 2000, 2000))
    assert equal_ranks(Budget(params=3_900), mixed) == (16, 16, 16, 16, 0)


def test_from_one_component_a_matrix_on_the_rest_goes_to_the_layers_in_front() -> None:
    square = tuple(Matrix(str(i), 8, 8) for i in range(6))
    assert equal_ranks(Budget(params=16 * 8), square) == (2, 2, 1, 1, 1, 1)
