"""The selection of components beside a plain greedy loop."""

import math

import pytest
import torch
from budgets import SHAPES, greedy
from hypothesis import given, settings
from hypothesis import strategies as st

from dora.adapters.allocation import allocate, select


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_select_equals_a_plain_greedy_loop(data):
    # Few distinct scores, so that ties are frequent; one to three costs, as backbones have.
    prices = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3, unique=True))
    items = data.draw(
        st.lists(st.tuples(st.integers(0, 6), st.sampled_from(prices)), min_size=1, max_size=40)
    )
    # From nothing to more than everything.
    total = data.draw(st.integers(0, 45 * len(items)))
    scores, costs = [float(s) for s, _ in items], [c for _, c in items]
    keep = select(torch.tensor(scores), torch.tensor(costs), total).tolist()
    assert keep == greedy(scores, costs, total)

    # What the greedy rule promises: never more than the total, and no room for one left out.
    spent = sum(c for c, k in zip(costs, keep, strict=True) if k)
    left_out = [c for c, k in zip(costs, keep, strict=True) if not k]
    assert spent <= total
    assert not left_out or total - spent < min(left_out)


@pytest.mark.parametrize("shape", ["roberta-base", "minilm"])
@pytest.mark.parametrize("total", [0, 1_535, 300_000, 1_000_003, 10**9])
def test_select_equals_the_greedy_loop_on_real_shapes(shape, total):
    # 864 and 432 components; below the cheapest one, between, and above all of them.
    random = torch.Generator().manual_seed(total)
    costs = [m.cost for m in SHAPES[shape] for _ in range(12)]
    scores = torch.rand(len(costs), generator=random)
    assert select(scores, torch.tensor(costs), total).tolist() == greedy(
        scores.tolist(), costs, total
    )


def test_equal_scores_still_keep_exactly_the_planned_number_in_a_fixed_order():
    # As at the first steps of a run, where every score is 0. Up to 16 of them any sort is stable.
    keep = select(torch.zeros(40), torch.ones(40, dtype=torch.long), 30)
    assert keep.tolist() == [True] * 30 + [False] * 10


def test_allocate_compares_across_matrices_and_answers_per_matrix():
    keep = allocate([torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.8, 0.3])], [1, 2], 4)
    # 0.9 costs 1, 0.8 costs 2; 0.3 and 0.2 cost 2 and no longer fit, 0.1 costs 1 and does.
    assert [k.tolist() for k in keep] == [[True, True], [False, True, False]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused_and_counted(bad):
    scores = [torch.tensor([0.9, bad]), torch.tensor([0.2, bad, 0.3])]
    with pytest.raises(FloatingPointError, match=r"not finite \(2 of 5\)"):
        allocate(scores, [1, 2], 4)
