"""Intervals against textbooks and by simulation; detectable differences by the non-central t."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef
from statsmodels.stats.multitest import multipletests

from dora.analysis.stats import Estimate, average, holm, improvement, resampled, t_quantile


# From the tables of any textbook, to the three digits that they print.
@pytest.mark.parametrize(
    ("p", "df", "quantile"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.8, 2, 1.061),
        (0.995, 10, 3.169),
        (0.975, 1e9, 1.96),
    ],
)
def test_quantiles_are_the_printed_ones(p: float, df: float, quantile: float) -> None:
    assert t_quantile(p, df) == pytest.approx(quantile, abs=5e-4)


@pytest.mark.parametrize("df", [1, 1.5, 2, 4, 7.3, 20, 300, 1e5])
@pytest.mark.parametrize("p", [0.5, 0.8, 0.9, 0.975, 0.995])
def test_a_quantile_has_its_probability_below_it(df: float, p: float) -> None:
    assert stats.t.cdf(t_quantile(p, df), df) == pytest.approx(p, rel=1e-9)


def test_a_quantile_of_unknown_degrees_of_freedom_is_unknown() -> None:
    assert math.isnan(t_quantile(0.9, math.nan))


def test_one_group_is_the_textbook_interval() -> None:
    values = [81.2, 80.4, 82.0, 81.1, 79.9]
    low, high = average([values]).interval()
    expected = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (low, high) == pytest.approx(expected)


def test_two_groups_have_welchs_degrees_of_freedom() -> None:
    a, b = [3.0, 4.5, 3.6, 5.2], [10.0, 30.0, 22.0]
    # A difference of two means has the error and degrees of freedom of their sum; the average is
    # half of that.
    welch = stats.ttest_ind(a, b, equal_var=False)
    low, high = average([a, b]).interval()
    half = (welch.confidence_interval().high - welch.confidence_interval().low) / 2
    assert average([a, b]).df == pytest.approx(welch.df)
    assert (high - low) / 2 == pytest.approx(half / 2)
    assert (high + low) / 2 == pytest.approx((np.mean(a) + np.mean(b)) / 2)


def test_rounding_never_takes_the_degrees_of_freedom_below_the_smallest_groups() -> None:
    estimate = average([[41.898370086289546, 59.827420901246406]])
    assert estimate.df == 1
    # By hand: t(0.975, 1) = 12.706, the error half the distance.
    assert estimate.interval()[1] == pytest.approx(50.8628955 + 12.7062 * 8.9645254, rel=1e-5)


def test_scores_a_ten_thousandth_of_a_point_apart_have_a_spread_and_rounding_has_none() -> None:
    assert average([[80.0, 80.0001]]).error == pytest.approx(5e-5)
    assert average([[80.0, 80.0 + 1e-10]]).error == 0


def coverage(seeds: int, variances: np.ndarray, draws: int) -> float:
    random = np.random.default_rng(len(variances) * 1000 + seeds)
    # All draws at once; the true mean is 0, which an interval covers where p is 0.05 or more.
    scale = np.sqrt(variances)[:, None]
    samples = random.standard_normal((draws, len(variances), seeds)) * scale
    return sum(average(sample).p_value() >= 0.05 for sample in samples.tolist()) / draws


CASES = [(n, t, r) for n in (3, 5, 10) for t in (1, 5, 8) for r in (1, 10, 100) if t > 1 or r == 1]
QUICK = [(3, 5, 1), (3, 5, 100)]


@pytest.mark.parametrize(
    ("seeds", "tasks", "ratio"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_the_interval_covers_what_it_says(seeds: int, tasks: int, ratio: float) -> None:
    """Variances spread evenly, on a log scale, from 1 to the ratio.

    20,000 draws know a coverage with a standard error of 0.15 points, of which two are allowed for:
    equal variances at 3 seeds and 5 tasks are 96.48 % by two million draws.
    """
    assert 0.94 - 0.003 <= coverage(seeds, np.geomspace(1, ratio, tasks), 20_000) <= 0.965 + 0.003


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "tasks", "least"), [(3, 5, 0.925), (3, 8, 0.92), (5, 8, 0.94), (10, 8, 0.943)]
)
def test_where_one_task_varies_a_hundred_times_as_much_as_all_others_it_covers_less(
    seeds: int, tasks: int, least: float
) -> None:
    """Checks the figures of the module's docstring for Satterthwaite's worst case."""
    assert least <= coverage(seeds, np.array([100.0] + [1.0] * (tasks - 1)), 20_000) <= 0.955


@pytest.mark.parametrize(
    "groups",
    [[[80.0], [70.0]], [[80.0, 80.0], [70.0, 70.0]], [[2.0, 2.0 + 3e-14]], [[-2.0, -2.0]]],
)
def test_one_seed_or_equal_values_show_no_error_and_nothing_follows_from_them(
    groups: list[list[float]],
) -> None:
    estimate = average(groups)
    unknown = (*estimate.interval(), estimate.detectable(0.05), estimate.p_value())
    assert all(map(math.isnan, unknown))


def test_one_seed_of_one_task_leaves_the_average_without_an_error_that_is_known() -> None:
    for groups, mean in (([[80.0], [70.0, 72.0]], 75.5), ([[0.0]], 0.0)):
        estimate = average(groups)
        assert estimate.mean == mean
        # Not 0, which is the error of equal scores: a mean of 0 would then be known to be 0.
        assert all(map(math.isnan, (estimate.error, estimate.p_value())))


def test_a_task_without_spread_adds_nothing_to_the_error_of_the_others() -> None:
    assert average([[80.0, 82.0], [70.0, 70.0]]).error == pytest.approx(0.5)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 9])
def test_the_detectable_difference_is_found_in_four_of_five_tests(n: int, alpha: float) -> None:
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    found = Estimate(0.0, 1 / math.sqrt(n), n - 1).detectable(alpha)
    # SciPy's distribution gives NaN in the other tail, which has less than a millionth.
    power = stats.nct.sf(critical, n - 1, found * math.sqrt(n))
    assert power == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("df", [1, 2, 3.7, 12, 300, 1e5])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 2.5, 6.0])
def test_p_values_equal_scipys(t: float, df: float) -> None:
    expected = 2 * stats.t.sf(t, df)
    assert Estimate(-2 * t, 2.0, df).p_value() == pytest.approx(expected, rel=1e-9)


def test_the_p_value_of_one_group_is_that_of_the_textbook_test() -> None:
    values = [0.4, 1.2, -0.3, 0.9, 0.8]
    assert average([values]).p_value() == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert math.isnan(average([[1.0]]).p_value())
    # No difference at all is known to be none.
    assert average([[0.0, 0.0]]).p_value() == 1


@pytest.mark.parametrize("largest", [0.2, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_holms_correction_equals_statsmodels(seed: int, largest: float) -> None:
    p = list(np.random.default_rng(seed).uniform(0, largest, 7))
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    # One whose p is not known counts as if it were 1: what it came to makes no other easier.
    with_gaps = [p[0], math.nan, *p[1:]]
    corrected = holm(with_gaps)
    assert math.isnan(corrected[1])
    assert [corrected[0], *corrected[2:]] == pytest.approx(holm([*p, 1.0])[:-1])


def test_the_probability_of_improvement_is_mann_whitneys_u_over_pairs() -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.integers(0, 9, (4, 5)), random.integers(0, 7, (4, 3))
    expected = np.mean(
        [stats.mannwhitneyu(a, b).statistic / 15 for a, b in zip(ours, theirs, strict=True)]
    )
    assert improvement(ours.tolist(), theirs.tolist()) == pytest.approx(expected)


REFERENCE = {
    "accuracy": lambda y, p: (y == p).mean(),
    "f1": f1_score,
    "matthews_correlation": matthews_corrcoef,
    "pearson": lambda y, p: stats.pearsonr(y, p).statistic,
}


@pytest.mark.parametrize("metric", REFERENCE)
def test_a_resample_scores_as_the_metric_does_on_its_rows(metric: str) -> None:
    random = np.random.default_rng(1)
    labels = random.normal(3, 1, 50) if metric == "pearson" else random.integers(0, 2, 50)
    noise = random.normal(0, 1, (3, 50))
    predictions = (
        labels + noise if metric == "pearson" else np.where(noise > 0.7, 1 - labels, labels)
    )
    # The same generator draws the same rows, on which scikit-learn and SciPy score one by one.
    found = resampled(metric, labels, predictions, draws=4, seed=9)
    picked = np.random.default_rng(9).integers(0, 50, (4, 50))
    expected = [
        [REFERENCE[metric](labels[rows], run[rows]) for run in predictions] for rows in picked
    ]
    assert found == pytest.approx(np.array(expected))


def test_a_collapsed_run_has_correlation_0_on_every_resample_and_one_without_a_positive_no_f1() -> (
    None
):
    labels, ones, zeros = np.array([0, 1, 0, 1]), np.ones((1, 4), int), np.zeros((1, 4), int)
    assert (resampled("matthews_correlation", labels, ones, draws=20) == 0).all()
    assert np.isnan(resampled("f1", np.zeros(4, int), zeros, draws=3)).all()
    for n in (7, 50):  # the mean of n times 0.1 is not quite 0.1
        scores = np.random.default_rng(n).uniform(0, 5, n)
        assert (resampled("pearson", scores, np.full((2, n), 0.1), draws=20) == 0).all()


def test_resamples_of_many_examples_are_as_many_and_the_same_as_drawn_at_once() -> None:
    n = 2**20 + 1  # 3 draws a chunk, and one is left
    right = np.arange(n)[None] % 3 == 0
    found = resampled("accuracy", np.ones(n, bool), right, draws=4)
    picked = np.random.default_rng(0).integers(0, n, (4, n))
    assert found == pytest.approx(right[0][picked].mean(1)[:, None])


def test_the_spread_over_resamples_is_the_binomial_one() -> None:
    labels = np.zeros(277, int)  # RTE's development set
    right = np.zeros((1, 277), int)
    right[0, :90] = 1
    spread = resampled("accuracy", labels, right, draws=4000).std()
    # 4,000 draws know a standard deviation to about 1 %.
    share = 187 / 277
    assert spread == pytest.approx(math.sqrt(share * (1 - share) / 277), rel=0.04)
    assert (
        resampled("accuracy", labels, right, draws=7)
        == resampled("accuracy", labels, right, draws=4000)[:7]
    ).all()
