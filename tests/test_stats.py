"""Intervals against SciPy and by simulation; detectable differences against the non-central t."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from dora.stats import Estimate, average, t_quantile


@pytest.mark.parametrize("df", [1, 1.5, 2, 4, 7.3, 20, 300, 1e5])
@pytest.mark.parametrize("p", [0.5, 0.8, 0.9, 0.975, 0.995])
def test_quantiles_equal_scipys(df: float, p: float) -> None:
    assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-4 if df < 3 else 1e-8, abs=1e-8)


@pytest.mark.parametrize(("p", "df"), [(0.4, 3), (1.0, 3), (0.9, 0.5), (0.9, math.nan)])
def test_a_quantile_that_is_not_defined_is_refused(p: float, df: float) -> None:
    with pytest.raises(ValueError, match="t_quantile needs"):
        t_quantile(p, df)


def test_one_group_is_the_textbook_interval() -> None:
    values = [81.2, 80.4, 82.0, 81.1, 79.9]
    low, high = average([values]).interval()
    expected = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (low, high) == pytest.approx(expected)


def test_two_groups_have_welchs_degrees_of_freedom() -> None:
    a, b = [3.0, 4.5, 3.6, 5.2], [10.0, 30.0, 22.0]
    # A difference of two means has the same error and degrees of freedom as their sum; the average is half of that.
    welch = stats.ttest_ind(a, b, equal_var=False)
    low, high = average([a, b]).interval()
    half = (welch.confidence_interval().high - welch.confidence_interval().low) / 2
    assert average([a, b]).df == pytest.approx(welch.df)
    assert (high - low) / 2 == pytest.approx(half / 2)
    assert (high + low) / 2 == pytest.approx((np.mean(a) + np.mean(b)) / 2)


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_of_five_tasks_covers_what_it_says(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    spread = np.array([0.3, 0.5, 1.0, 2.0, 3.0])[:, None]
    draws = 2000
    hits = 0
    for _ in range(draws):
        low, high = average(list(random.normal(0.0, spread, (5, seeds)))).interval()
        hits += low <= 0 <= high
    assert 0.93 < hits / draws < 0.975


def test_one_seed_has_no_interval_and_equal_values_one_of_no_width() -> None:
    assert all(math.isnan(v) for v in average([[80.0], [70.0]]).interval())
    assert average([[80.0, 80.0], [70.0, 70.0]]).interval() == (75.0, 75.0)
    assert average([[80.0, 80.0]]).detectable() == 0.0


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_detectable_difference_is_near_the_exact_one(n: int) -> None:
    critical = stats.t.ppf(0.975, n - 1)

    def power(difference: float) -> float:
        noncentral = difference * math.sqrt(n)
        return stats.nct.sf(critical, n - 1, noncentral) + stats.nct.cdf(-critical, n - 1, noncentral)

    exact = optimize.brentq(lambda d: power(d) - 0.8, 0.01, 6 / math.sqrt(n))
    found = Estimate(0.0, 1 / math.sqrt(n), n - 1).detectable()
    assert found == pytest.approx(exact, rel=0.12 if n == 3 else 0.03)
