"""The rule grows at an edge and closes in inside, by a search's own scores alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from searches import peak, search_at

from dora.cli.search_rule import next_rates
from dora.configuration import search_file


def searched(score: Callable[[float], float | None], start: float, most: int) -> dict[float, float]:
    """Returns the candidates that the rule tries, with `score` of each."""
    scores: dict[float, tuple[float | None, ...]] = {}
    while rates := next_rates(search_at("", "", "", None, (1,), scores), start, most):
        for rate in rates:
            assert rate not in scores
            scores[rate] = (score(rate),)
    return {rate: s[0] for rate, s in scores.items()}  # type: ignore[misc]


# Worked by hand: half, once and twice the start, then on by the rule.
@pytest.mark.parametrize(
    ("at", "tried"),
    [
        # At the upper edge until 1.6e-3 shows that 8e-4 lies inside.
        (1e-3, [5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3]),
        # Never inside: six candidates, each half of the one before.
        (1e-9, [5e-5, 1e-4, 2e-4, 2.5e-5, 1.25e-5, 6.25e-6]),
        # Inside at once, and 2e-4 the better neighbour: their geometric mean, then nearer.
        (1.2e-4, [5e-5, 1e-4, 2e-4, 1.41e-4, 1.19e-4, 1.3e-4]),
        # 1e-4 stays the best: the wider gap, below it, then that towards the better neighbour.
        (1.05e-4, [5e-5, 1e-4, 2e-4, 1.41e-4, 7.07e-5, 1.19e-4]),
    ],
)
def test_a_search_grows_at_an_edge_and_closes_in_inside(at: float, tried: list[float]) -> None:
    assert list(searched(peak(at), 1e-4, 6)) == tried


@pytest.mark.parametrize("most", [3, 4, 6, 9])
@pytest.mark.parametrize("at", [1e-7, 3e-5, 1.1e-4, 2e-3, 1.0])
def test_every_search_has_as_many_candidates_as_it_may(at: float, most: int) -> None:
    assert len(searched(peak(at), 1e-4, most)) == most


def test_of_equal_scores_the_lower_rate_wins_and_a_diverged_one_loses() -> None:
    # Nothing learns: down, and the edge is told.
    flat = searched(lambda rate: 50.0, 1e-3, 5)
    assert list(flat) == [5e-4, 1e-3, 2e-3, 2.5e-4, 1.25e-4]
    diverging = searched(lambda rate: None if rate > 4e-4 else 80.0, 1e-3, 5)
    assert list(diverging) == [5e-4, 1e-3, 2e-3, 2.5e-4, 1.25e-4]
    search = search_at("m", "rte", "lora", "r8", (1,), {r: (s,) for r, s in diverging.items()})
    assert (search.lr, search.at_edge) == (1.25e-4, True)
    # One seed that diverged is no lucky seed: the rate loses to any whole one.
    seeds = {1e-3: (70.0, 71.0), 2e-3: (None, 99.0)}
    assert search_at("m", "rte", "lora", "r8", (1, 2), seeds).lr == 1e-3


def test_where_no_rate_scores_the_lower_loss_is_better() -> None:
    # A Matthews correlation of 0.0 everywhere, and losses lowest about 3e-3.
    losses: dict[float, tuple[float | None, ...]] = {}

    def found() -> search_file.Search:
        return search_at("", "", "", None, (1,), dict.fromkeys(losses, (0.0,)), losses=losses)

    while rates := next_rates(found(), 1e-3, 6):
        losses |= {rate: (0.6 + abs(math.log2(rate / 3e-3)) / 100,) for rate in rates}
    assert list(losses) == [5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 2.83e-3]
    assert (found().lr, found().at_edge, found().all_equal) == (2.83e-3, False, True)
    # Where one is not known, none counts: the lower rate. A score wins over every loss.
    losses |= {2.83e-3: (None,)}
    assert found().lr == 5e-4
    one = search_at("", "", "", None, (1,), {1e-3: (0.1,), 2e-3: (0.0,)}, losses=losses)
    assert (one.lr, one.all_equal) == (1e-3, False)


@pytest.mark.parametrize(
    ("rates", "losses", "tried"),
    [
        ((1e-4, 2e-4, 4e-4), (), [1.41e-4]),  # the lower rate
        ((1e-4, 2e-4, 4e-4), (0.7, 0.5, 0.6), [2.83e-4]),  # the lower loss
        ((1e-3, 1.01e-3, 1.02e-3), (), []),  # nothing of three digits lies between
    ],
)
def test_a_search_between_neighbours_of_one_score_closes_in_by_loss_then_by_rate(
    rates: tuple[float, ...], losses: tuple[float, ...], tried: list[float]
) -> None:
    scores: dict[float, tuple[float | None, ...]] = dict(
        zip(rates, [(0.5,), (0.9,), (0.5,)], strict=True)
    )
    held = {rate: (loss,) for rate, loss in zip(rates, losses, strict=False)}
    found = search_at("", "", "", None, (1,), scores, losses=held)
    assert next_rates(found, rates[1], 6) == tried
