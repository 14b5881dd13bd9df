"""Dropout by gaps has the statistics of an entry-by-entry draw, and the right gradient.

Seeds are fixed, so a test that passes once passes always; the bounds say how unlikely a failure of
right code was.
"""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from conftest import batches, tiny
from dora.adapters import dropout
from dora.adapters.dropout import Dropout
from dora.backbones.attention import speed_up


@pytest.mark.parametrize("p", [1e-6, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_gaps_are_geometric(p):
    """Tests the shares of all 65,536 equally likely gaps against P(gap ≤ k) = 1 − (1 − p)^k."""
    gaps = dropout._table(p).numpy()
    assert gaps.min() >= 1
    values, counts = np.unique(gaps, return_counts=True)
    shares = counts.cumsum() / 2**16
    # Half of a number's share, at each value and just before the next one.
    assert np.abs(shares - stats.geom(p).cdf(values)).max() <= 2**-17
    assert np.abs(shares[:-1] - stats.geom(p).cdf(values[1:] - 1)).max() <= 2**-17
    assert gaps.mean() == pytest.approx(1 / p, rel=2e-5)


def test_every_16_bit_number_is_drawn_about_equally_often():
    torch.manual_seed(0)
    count = 40 * 2**16
    # p is so small that no two numbers share a gap.
    gaps = dropout._gaps(count, 1e-9)
    _, counts = gaps.unique(return_counts=True)
    assert len(counts) == 2**16
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    # A table's entries count down from the largest gap: neighbours in a draw are independent.
    rank = gaps.double().argsort().argsort().double()
    assert abs(torch.corrcoef(torch.stack([rank[1:], rank[:-1]]))[0, 1]) < 4 / count**0.5


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3])
def test_every_entry_is_dropped_with_probability_p_independently_of_its_neighbours(p):
    torch.manual_seed(1)
    n, draws = 400, 4000
    hit = torch.zeros(draws, n)  # 1 where an entry is dropped
    for row in hit:
        row[dropout.draw(torch.empty(n), p)] = 1
    # Mean p and variance p (1 − p) / draws: 5 standard deviations for the worst of 400 entries.
    each = hit.mean(0)
    assert (each - p).abs().max() < 5 * (p * (1 - p) / draws) ** 0.5
    # Binomial: of n draws with probability p.
    counts = hit.sum(1)
    assert counts.mean().item() == pytest.approx(n * p, abs=4 * (n * p * (1 - p) / draws) ** 0.5)
    assert counts.var().item() == pytest.approx(n * p * (1 - p), rel=0.1)
    # Independent neighbours are dropped together with probability p².
    for lag in (1, 2, 7):
        together = (hit[:, lag:] * hit[:, :-lag]).mean().item()
        assert together == pytest.approx(p * p, rel=0.03)


def test_positions_ascend_without_repeats_and_stay_inside_however_few_or_many():
    torch.manual_seed(2)
    for n in (1, 2, 5, 1000):
        # Where a first guess of the number of gaps falls short, and where it is far too many.
        for p in (1e-6, 0.1, 0.999_999):
            at = dropout.draw(torch.empty(n), p)
            assert at.dtype == torch.int64
            assert at.diff().gt(0).all()
            assert ((at >= 0) & (at < n)).all()
    assert len(dropout.draw(torch.empty(50), 0.0)) == 0
    assert len(dropout.draw(torch.empty(0, 3), 0.5)) == 0
    assert len(dropout.draw(torch.empty(50), 0.999_999)) == 50


def test_draws_are_those_of_the_default_generator_s_seed():
    x = torch.empty(1000)
    torch.manual_seed(3)
    one, two = dropout.draw(x, 0.1), dropout.draw(x, 0.1)
    torch.manual_seed(3)
    assert torch.equal(dropout.draw(x, 0.1), one)
    assert not torch.equal(one, two)


@pytest.mark.usefixtures("float64")
def test_a_product_is_added_everywhere_but_at_the_dropped_entries():
    torch.manual_seed(4)
    y, left, right = torch.randn(7, 5), torch.randn(7, 2), torch.randn(2, 5)
    # Both forms of a draw: a CPU's positions, and another device's mask, True where an entry stays.
    for dropped in (torch.tensor([0, 3, 34]), torch.randn(7, 5) > 0):
        if dropped.dtype == torch.bool:
            inside = dropped.flatten()
        else:
            inside = torch.ones(35, dtype=torch.bool)
            inside[dropped] = False
        got = y.clone()
        dropout.add_product_(got, left, right, dropped)
        torch.testing.assert_close(got, torch.where(inside.view(7, 5), y + left @ right, y))
        for x in (y, y.t().contiguous().t()):  # either order in memory
            torch.testing.assert_close(
                dropout.zeroed(x, dropped), torch.where(inside.view(7, 5), y, 0.0)
            )


@pytest.mark.usefixtures("float64")
def test_the_module_scales_up_what_stays_passes_the_same_gradient_and_rests_in_evaluation():
    torch.manual_seed(5)
    module, x = Dropout(0.4), torch.randn(30, 20, requires_grad=True)
    y = module(x)
    kept = y != 0
    assert 0.5 < kept.double().mean() < 0.7
    torch.testing.assert_close(y, torch.where(kept, x / 0.6, 0.0))
    # dL/dx is the weight, scaled as x was, at the entries that stayed.
    weight = torch.randn(30, 20)
    (y * weight).sum().backward()
    torch.testing.assert_close(x.grad, torch.where(kept, weight / 0.6, 0.0))
    assert module.eval()(x) is x
    assert Dropout(0.0)(x) is x


class Another(nn.Dropout):
    """A dropout that may do something else."""


def test_a_dropout_is_replaced_by_one_of_its_own_probability_and_a_subclass_is_not():
    model = nn.Sequential(nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.2), Another(0.1)))
    dropout.replace(model)
    found = [(type(module), module.p) for module in (model[0], *model[1])]
    assert found == [(Dropout, 0.3), (Dropout, 0.2), (Another, 0.1)]


@pytest.mark.parametrize("architecture", ["roberta", "bert", "deberta-v2"])
@pytest.mark.usefixtures("float64")
def test_a_backbone_keeps_its_outputs_and_its_dropout_in_mean_and_spread(architecture):
    plain, cheap = (tiny(architecture, layers=1, dropout=0.1) for _ in range(2))
    speed_up(cheap, torch.device("cpu"))
    assert not any(type(m) is nn.Dropout for m in cheap.modules())
    batch = batches(1)[0]
    torch.testing.assert_close(cheap.eval()(**batch).logits, plain.eval()(**batch).logits)
    drawn = []
    for model in (plain.train(), cheap.train()):
        torch.manual_seed(7)
        with torch.no_grad():
            drawn.append(torch.stack([model(**batch).logits for _ in range(150)]))
    # No formula gives the spread of a whole backbone's output, so both models are drawn from.
    spread = drawn[0].std(0)
    assert (drawn[0].mean(0) - drawn[1].mean(0)).abs().max() < 5 * spread.max() * (2 / 150) ** 0.5
    torch.testing.assert_close(drawn[1].std(0), spread, rtol=0.4, atol=0)
