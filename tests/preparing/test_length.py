"""A run's length, and the settings that have to fit it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora.errors import UserError
from dora.preparing.federation import Federation
from dora.preparing.prepare import prepare
from runs import configure, small_words

FEDERATED = ("method=fedit", "budget=r2", "fed.local_steps=10")  # 3 clients: rounds of 30 steps


def problems(tmp_path: Path, *words: str) -> list[str]:
    """Returns the problems of the small run with these words, of 96 rows in batches of 8."""
    try:
        prepare(configure(*small_words(tmp_path, *words)))
    except UserError as e:
        return list(e.problems)
    return []


def about(found: list[str]) -> list[str]:
    """Returns what each message begins with: a key and its value."""
    return [text.split()[0] for text in found]


def test_the_last_batch_of_each_epoch_may_be_smaller_and_is_a_step(tmp_path: Path) -> None:
    words = ("method=lora", "budget=r2", "max_steps=null", "epochs=3", "batch_size=10")
    # 96 rows are nine batches of 10 and one of 6.
    assert prepare(configure(*small_words(tmp_path, *words))).total_steps == 3 * 10


@pytest.mark.parametrize(
    "words",
    [
        ("max_steps=null", "fed.rounds=1"),
        ("max_steps=30", "fed.rounds=1"),
        # 30 is what whole rounds leave of 59 steps.
        ("max_steps=59",),
    ],
)
def test_a_warm_up_must_fit_the_rounds_that_are_trained(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    [problem] = problems(tmp_path, *FEDERATED, *words, "warmup=50")
    assert problem.startswith("warmup=50 must be less than the run's 30 steps")
    assert problems(tmp_path, *FEDERATED, *words, "warmup=20") == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ("method=fedit", "fed.local_steps=1", "fed.restart=round"),
            "warmup=0.06 is 1 of each round's 1 steps, so that the rate never reaches lr: "
            "give warmup=0, more fed.local_steps, or fed.restart=run",
        ),
        (
            ("method=fedit", "fed.local_steps=3", "fed.restart=round", "warmup=17"),
            "warmup=17 is 3 of each round's 3 steps, so that the rate never reaches lr: "
            "give at most warmup=0.66, more fed.local_steps, or fed.restart=run",
        ),
        (
            ("method=fedit", "fed.local_steps=1", "fed.rounds=1", "max_steps=3"),
            "warmup=0.06 is 1 of each client's 1 steps, so that the rate never reaches lr: "
            "give warmup=0",
        ),
        (
            ("method=chain", "method.links=2", "max_steps=3", "warmup=0.6"),
            "warmup=0.6 is 1 of the shortest link's 1 steps, so that the rate never reaches lr: "
            "give warmup=0, fewer method.links, or method.restart=rewarm",
        ),
        (
            ("method=lora", "max_steps=1"),
            "warmup=0.06 is 1 of the run's 1 steps, so that the rate never reaches lr: "
            "give warmup=0",
        ),
        (
            ("method=lora", "max_steps=10", "warmup=0.95"),
            "warmup=0.95 is 10 of the run's 10 steps, so that the rate never reaches lr: "
            "give at most warmup=0.9",
        ),
    ],
)
def test_a_schedule_that_is_all_warm_up_is_refused(
    words: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    assert problems(tmp_path, "budget=r2", *words) == [problem]
    warmup = problem.split("give ")[1].removeprefix("at most ").split(",")[0]
    assert problems(tmp_path, "budget=r2", *words, warmup) == []


def test_a_chain_that_is_all_warm_up_is_told_so_once(tmp_path: Path) -> None:
    words = ("method=chain", "method.links=2", "budget=r2", "max_steps=4")
    assert problems(tmp_path, *words) == []
    [problem] = problems(tmp_path, *words, "warmup=0.9")
    assert problem.startswith("warmup=0.9 is 4 of the run's 4 steps")
    assert about(problems(tmp_path, *words, "warmup=inf")) == ["warmup=inf"]
    short = (*words, "max_steps=2")
    assert about(problems(tmp_path, *short)) == ["warmup=0.06"]
    assert problems(tmp_path, *short, "method.restart=rewarm") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method=lora", "epochs=2147483647"), "epochs=2147483647 makes 25,769,803,764 steps"),
        (("method=fedit", "epochs=2147483647"), "epochs=2147483647 makes 25,769,803,764 steps"),
        (
            ("method=fedit", "fed.rounds=2147483647"),
            "fed.rounds=2147483647 makes 12,884,901,882 steps",
        ),
    ],
)
def test_a_length_that_follows_is_bounded_as_one_that_is_typed(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    [problem] = problems(tmp_path, "budget=r2", "max_steps=null", *words)
    assert problem == f"{said}, which must be at most 2,147,483,647"


def test_rounds_and_steps_that_are_two_lengths_are_refused_with_the_one_that_fits(
    tmp_path: Path,
) -> None:
    [problem] = problems(tmp_path, *FEDERATED, "max_steps=600", "fed.rounds=1", "warmup=50")
    assert problem == (
        "max_steps=600 and fed.rounds=1 are two lengths: a round of 3 clients with "
        "fed.local_steps=10 has 30 steps, which makes 30; give fed.rounds=null for as many rounds "
        "as fit, or max_steps=30"
    )
    # Half of 8 clients: 40 steps a round. 96 rows make 12 steps an epoch.
    half = ("method=fedit", "budget=r2", "fed.clients=8", "fed.fraction=0.5", "fed.local_steps=10")
    [problem] = problems(tmp_path, *half, "max_steps=null", "epochs=7", "fed.rounds=3")
    assert problem.startswith("epochs=7 and fed.rounds=3 are two lengths: a round of 4 clients")
    assert problem.endswith(
        "which makes 120; give fed.rounds=null for as many rounds as fit, or max_steps=120"
    )
    for agreeing in ("max_steps=120", "max_steps=130"):
        assert problems(tmp_path, *half, "epochs=7", "fed.rounds=3", agreeing) == []
    assert problems(tmp_path, *half, "max_steps=null", "epochs=10", "fed.rounds=3") == []
    # Other methods have no rounds.
    assert problems(tmp_path, "method=lora", "budget=r2", "max_steps=60", "fed.rounds=1") == []


def test_more_clients_than_training_rows_are_refused_before_rows_are_dealt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deal(*given: object) -> None:
        raise AssertionError("no list of so many clients is made")

    words = ("method=fedit", "budget=r2", "limit_train=60", "fed.local_steps=2")
    assert problems(tmp_path, *words, "max_steps=120", "fed.clients=60") == []
    monkeypatch.setattr(Federation, "of", deal)
    for clients in ("61", "200", "2000000", "3000000000"):
        said = f"fed.clients={clients} is more than the 60 training rows: at most 60"
        assert problems(tmp_path, *words, f"fed.clients={clients}") == [said]
    one = (*words, "limit_train=1", "fed.clients=2")
    assert problems(tmp_path, *one) == ["fed.clients=2 is more than the 1 training row: at most 1"]
    # Other methods have no clients.
    assert problems(tmp_path, "method=lora", "budget=r2", "fed.clients=200") == []


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["max_steps=40", "warmup=90", "max_length=600"], ["max_length=600", "warmup=90"]),
        (["max_steps=6", "warmup=9", "head_lr=-1"], ["head_lr=-1.0", "warmup=9"]),
        # Two epochs of 12 steps.
        (["max_steps=null", "epochs=2", "warmup=24", "lr=0"], ["lr=0.0", "warmup=24"]),
        (["max_steps=6", "warmup=9", "data.dir=/nowhere"], ["data.dir=/nowhere", "warmup=9"]),
        (
            ["method=dora", "method.prune_start=50", "max_steps=40", "clip=-1"],
            ["clip=-1.0", "method.prune_start=50.0"],
        ),
        ([*FEDERATED, "max_steps=40", "warmup=35", "lr=0"], ["lr=0.0", "warmup=35"]),
        # Where the length or a setting has a message itself, there is nothing to compare.
        (["max_steps=0", "warmup=9"], ["max_steps=0"]),
        (["max_steps=null", "batch_size=0", "warmup=900"], ["batch_size=0"]),
        (["max_steps=null", "limit_train=-5", "warmup=900"], ["limit_train=-5"]),
        (["max_steps=6", "warmup=9.5"], ["warmup=9.5"]),
        (["max_steps=6", "warmup=inf"], ["warmup=inf"]),
        (["method=chain", "method.links=0", "max_steps=40"], ["method.links=0"]),
        (["method=dora", "method.prune_start=nan"], ["method.prune_start=nan"]),
        ([*FEDERATED, "max_steps=40", "seed=-1", "warmup=99"], ["seed=-1"]),
        (
            [*FEDERATED, "fed.clients=97", "lr=0", "warmup=9.5"],
            ["warmup=9.5", "lr=0.0", "fed.clients=97"],
        ),
        ([*FEDERATED, "fed.clients=97", "fed.alpha=0"], ["fed.alpha=0.0", "fed.clients=97"]),
        ([*FEDERATED, "fed.clients=97", "max_steps=0"], ["max_steps=0", "fed.clients=97"]),
        ([*FEDERATED, "fed.clients=0"], ["fed.clients=0"]),
        ([*FEDERATED, "max_steps=40", "fed.alpha=nan", "warmup=99"], ["fed.alpha=nan"]),
    ],
)
def test_what_does_not_fit_the_length_comes_with_every_other_problem(
    words: list[str], keys: list[str], tmp_path: Path
) -> None:
    method = [] if words[0].startswith("method=") else ["method=lora", "budget=r2"]
    assert about(problems(tmp_path, *method, *words)) == keys
