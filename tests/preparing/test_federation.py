"""Federated runs: who trains on which rows, at which rate, in which step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dora.configuration.config import Config
from dora.configuration.groups import FedConfig, TaskConfig
from dora.preparing.federation import Federation
from dora.training.course import Course, FederatedCourse
from runs import refused, small_words

LABELS = np.array([0] * 60 + [1] * 40)


def federation(steps: int = 120, seed: int = 1, **fed: Any) -> Federation:
    """Returns the federation of a run on 100 rows of two classes."""
    return Federation.of(FedConfig(**fed), LABELS, seed, steps)


def test_steps_lie_in_rounds_clients_and_local_steps() -> None:
    f = federation(clients=2, local_steps=5)
    assert (f.rounds, f.selected, f.total_steps) == (12, 2, 120)
    places = [f.client_step(step) for step in range(1, 121)]
    assert [(p.round, p.slot, p.local) for p in places] == [
        (t, s, e) for t in range(12) for s in range(2) for e in range(5)
    ]
    assert {p.client for p in places if p.slot == 1} == {1}
    sizes = [len(rows) for rows in f.rows]
    assert places[0].share == sizes[0] / 100
    assert places[5].share == sizes[1] / 100


def test_selected_clients_are_drawn_as_the_specification_says() -> None:
    f = federation(400, seed=3, clients=8, fraction=0.5, partition="iid")
    for t, clients in enumerate(f.chosen):
        draw = np.random.default_rng([3, 0x5E1, t]).choice(8, 4, replace=False)
        assert clients == sorted(draw.tolist())
        # The average is over them alone, by their rows.
        held = [len(f.rows[k]) for k in clients]
        places = [
            f.client_step(t * f.steps_a_round + slot * f.local_steps + 1) for slot in range(4)
        ]
        assert [p.share for p in places] == [n / sum(held) for n in held]
    # A client's own steps count on from round to round in which it takes part.
    taken: dict[int, int] = {}
    for step in range(1, f.total_steps + 1):
        place = f.client_step(step)
        assert f.step_of_client(place) == taken.get(place.client, 0)
        taken[place.client] = taken.get(place.client, 0) + 1


def test_a_client_without_rows_takes_no_part() -> None:
    f = federation(600, seed=4, clients=30, alpha=0.05)
    empty = {k for k, rows in enumerate(f.rows) if not len(rows)}
    assert empty
    assert not empty & {k for clients in f.chosen for k in clients}
    assert f.selected == 30 - len(empty)
    # `fed.fraction` is a share of those with rows.
    half = federation(600, seed=4, clients=30, alpha=0.05, fraction=0.5)
    assert half.selected == round((30 - len(empty)) / 2) < 15


def test_a_run_shorter_than_a_round_is_refused(tmp_path: Path) -> None:
    words = small_words(tmp_path, "method=fedit", "budget=r2", "max_steps=20", "fed.local_steps=10")
    [problem] = refused(*words)
    assert problem.startswith("a round of 3 clients with fed.local_steps=10 has 30 steps")
    words = small_words(tmp_path, "method=fedit", "fed.clients=0", "fed.fraction=2", "fed.alpha=0")
    assert [text.split("=")[0] for text in refused(*words)] == [
        "fed.clients",
        "fed.fraction",
        "fed.alpha",
    ]


def course(
    total: int = 120,
    batch_size: int = 8,
    warmup: float = 0.2,
    batching: str = "length",
    **fed: Any,
) -> FederatedCourse:
    """Returns the course of a run on 100 rows of unequal lengths."""
    config = Config(
        task=TaskConfig("sst2"),
        batch_size=batch_size,
        warmup=warmup,
        batching=batching,
        schedule="linear",
        fed=FedConfig(**fed),
    )
    lengths = np.random.default_rng(0).integers(5, 20, 100)
    return FederatedCourse(config, lengths, Federation.of(config.fed, LABELS, 1, total))


def test_a_clients_steps_go_through_its_own_rows_epoch_by_epoch() -> None:
    c = course(clients=3, local_steps=4)
    seen: dict[int, list[np.ndarray]] = {}
    for step in range(1, c.federation.total_steps + 1):
        place = c.federation.client_step(step)
        seen.setdefault(place.client, []).append(c.rows(step))
    for client, batches in seen.items():
        own = c.federation.rows[client]
        epoch = math.ceil(len(own) / 8)
        for at in range(0, len(batches) - epoch + 1, epoch):
            rows = np.concatenate(batches[at : at + epoch])
            assert np.array_equal(np.sort(rows), own)
    # Another course gives equal rows for any step alone: nothing is kept from step to step.
    other = course(clients=3, local_steps=4)
    for step in (77, 3, 50):
        assert np.array_equal(other.rows(step), c.rows(step))


def test_a_client_of_few_rows_trains_on_batches_of_all_of_them() -> None:
    c = course(batch_size=64, clients=3, local_steps=4)
    for step in range(1, 13):
        own = c.federation.rows[c.federation.client_step(step).client]
        assert len(own) <= 64
        assert np.array_equal(np.sort(c.rows(step)), own)


@pytest.mark.parametrize("batching", ["length", "random"])
def test_the_examples_of_a_run_are_the_rows_of_its_steps(batching: str) -> None:
    # By hand: 34, 33 and 33 rows are epochs of 5 steps of up to 8; in 10 rounds of 4 steps each
    # client has 8 epochs: 800 rows in 120 steps.
    assert course(batching=batching, partition="iid", local_steps=4).examples(120) == 800
    # Small batches lie anywhere; not all clients take part; epochs end inside rounds.
    for fed in (
        {"clients": 3, "local_steps": 4},
        {"clients": 8, "fraction": 0.5, "local_steps": 3},
    ):
        c = course(batching=batching, **fed)
        for last in range(c.unit, c.total_steps + 1, c.unit):
            assert c.examples(last) == sum(len(c.rows(step)) for step in range(1, last + 1))
        assert c.examples(c.total_steps) < 8 * c.total_steps


def test_rates_follow_one_schedule_over_all_rounds_or_one_in_each() -> None:
    c = course(clients=2, local_steps=5)  # 12 rounds, 60 steps of each client
    plain = Course(c.config, c.lengths, 60)
    whole = [plain.share(i) for i in range(1, 61)]
    for slot in range(2):
        mine = [s for s in range(1, 121) if c.federation.client_step(s).slot == slot]
        assert [c.share(s) for s in mine] == pytest.approx(whole)
    each = course(clients=2, local_steps=5, restart="round")
    part = [Course(c.config, c.lengths, 5).share(i) for i in range(1, 6)]
    assert [each.share(s) for s in range(1, 121)] == pytest.approx(part * 24)
    # A warm-up in steps is in proportion to what a client takes of the run.
    steps = course(clients=2, local_steps=5, warmup=24)
    assert [steps.share(s) for s in range(1, 121)] == [c.share(s) for s in range(1, 121)]


@pytest.mark.parametrize("restart", ["run", "round"])
def test_a_warm_up_in_steps_is_the_share_of_the_run_that_it_is_of_all_clients_steps(
    restart: str,
) -> None:
    # 50 rounds of 3 clients with 10 steps: 1,500 steps, of which a client takes 500.
    few, share = (
        course(1500, warmup=warmup, clients=3, partition="iid", local_steps=10, restart=restart)
        for warmup in (300, 0.2)
    )
    assert few.total_steps == 1500
    assert [few.share(s) for s in range(1, 1501)] == [share.share(s) for s in range(1, 1501)]
    # By hand: a fifth of a round's 10 steps, or of the client's 500, then down in equal parts.
    warm, rest = (2, 8) if restart == "round" else (100, 400)
    own = [s for s in range(1, 1501) if few.federation.client_step(s).slot == 0][: warm + rest]
    rates = [k / warm for k in range(warm)] + [1 - k / rest for k in range(rest)]
    assert [few.share(s) for s in own] == pytest.approx(rates)


def test_only_rounds_ends_are_evaluated_and_saved() -> None:
    c = course(clients=2, local_steps=5)
    assert [s for s in range(1, 121) if c.ends_unit(s)] == list(range(10, 121, 10))
    assert [s for s in range(1, 121) if c.crosses(s, 25)] == [30, 50, 80, 100]
    assert [s for s in range(1, 121) if c.crosses(s, 3)] == list(range(10, 121, 10))
