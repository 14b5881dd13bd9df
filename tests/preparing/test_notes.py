"""A run says before it trains which splits are not GLUE's whole ones, and what exceeds the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dora.data.tasks import AX, TASKS, Rows
from dora.preparing.federation import Federation
from dora.preparing.notes import beyond_notes, clients_notes, idle_note, notes_on, rows_notes
from dora.preparing.prepare import prepare
from dora.training.course import FederatedCourse
from runs import configure, run, small


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, []),
        (
            {"dev_mm": 300},
            ["not GLUE's whole rows: mnli dev_mm 300 rows (GLUE has 9,832); tables say so; "],
        ),
        # One row too few, which is less than a thousandth of the split.
        (
            {"train": 392_701, "dev": 9_814},
            [
                "not GLUE's whole rows: mnli train 392,701 rows (GLUE has 392,702), "
                "dev 9,814 rows (GLUE has 9,815); tables say so; "
            ],
        ),
        (
            {"test": 9_795, "ax": 1_103},
            [
                "no predictions that dora.submit takes: mnli test 9,795 rows (GLUE has 9,796), "
                "ax 1,103 rows (GLUE has 1,104)"
            ],
        ),
        (
            {"test_mm": None, "ax": None},  # AX may be added later
            ["no predictions that dora.submit takes: mnli test_mm 0 rows (GLUE has 9,847)"],
        ),
    ],
)
def test_splits_that_are_not_whole_are_named(
    changed: dict[str, int | None], said: list[str]
) -> None:
    sizes = TASKS["mnli"].sizes | AX.sizes | changed
    rows = {k: Rows([""] * n, None, None, np.arange(n)) for k, n in sizes.items() if n is not None}
    config = configure("task=mnli", "method=lora", "data=dir", "data.dir=glue")
    found = rows_notes(config, rows)
    assert [note[: len(text)] for note, text in zip(found, said, strict=True)] == said
    assert rows_notes(configure("task=mnli", "method=lora", "data=mini"), rows) == []


def test_test_ids_that_the_server_does_not_have_are_named_before_training() -> None:
    sizes = TASKS["rte"].sizes
    rows = {k: Rows([""] * n, None, None, np.arange(n)) for k, n in sizes.items()}
    config = configure("task=rte", "method=lora", "data=dir", "data.dir=glue")
    right = np.arange(sizes["test"])[::-1]  # in any order
    rows["test"] = replace(rows["test"], idx=right)
    assert rows_notes(config, rows) == []
    said = (
        "no predictions that dora.submit takes: rte test with other ids than 0 to 2,999, each once"
    )
    for wrong in (right + 1, right // 2):  # from 1, and twice
        rows["test"] = replace(rows["test"], idx=wrong)
        assert rows_notes(config, rows) == [said]


def test_settings_beyond_the_runs_rows_and_steps_are_told(tmp_path: Path) -> None:
    config = configure("task=rte", "method=lora", "limit_train=2490", "eval_every=60")
    assert beyond_notes(config, 2_490, 60) == []
    said = [
        "limit_train=2490: rte has 2,489 rows to train on, all are used",
        "eval_every=60: rte is trained for 59 steps, and evaluated after the last one alone",
    ]
    assert beyond_notes(config, 2_489, 59) == said
    assert beyond_notes(configure("task=rte", "method=lora"), 10, 5) == []
    found = notes_on(prepare(small(tmp_path, "method=lora", "limit_train=9999", "max_steps=5")))
    assert [note.split(":")[0] for note in found[-2:]] == ["limit_train=9999", "eval_every=6"]


@pytest.mark.parametrize(
    ("words", "empty", "said"),
    [
        (
            ["fed.rounds=10", "max_steps=600"],
            2,
            "2 of 6 clients have no rows: 10 rounds are 400 steps, and not max_steps=600",
        ),
        (
            ["fed.rounds=10", "epochs=7"],
            1,
            "1 of 6 clients has no rows: 10 rounds are 500 steps, and not epochs=7",
        ),
        (["fed.rounds=10"], 2, "2 of 6 clients have no rows and take no part"),
        # As many steps are left as with all clients: the run has more rounds.
        (["max_steps=600"], 1, "1 of 6 clients has no rows and takes no part"),
        # Half of 6 clients are 3, and half of 5 are 2; a third of both are 2.
        (
            ["fed.rounds=10", "max_steps=300", "fed.fraction=0.5"],
            1,
            "1 of 6 clients has no rows: 10 rounds are 200 steps, and not max_steps=300",
        ),
        (
            ["fed.rounds=10", "max_steps=200", "fed.fraction=0.33"],
            1,
            "1 of 6 clients has no rows and takes no part",
        ),
    ],
)
def test_clients_without_rows_are_told_with_the_steps_that_they_cost(
    words: list[str], empty: int, said: str
) -> None:
    config = configure("method=fedit", "fed.clients=6", "fed.local_steps=10", *words)
    rows = tuple(np.arange(0 if k < empty else 16) for k in range(6))
    selected = max(1, round(config.fed.fraction * (6 - empty)))
    federation = Federation(rows, 10, selected, 10, seed=1)
    assert clients_notes(config, federation) == [said]
    full = Federation((np.arange(16),) * 6, 10, selected, 10, seed=1)
    assert clients_notes(config, full) == []
    assert clients_notes(config, None) == []


def test_a_run_tells_of_clients_without_rows_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    length = ("max_steps=24", "fed.rounds=1", "fed.local_steps=2")
    few = ("fed.clients=12", "fed.alpha=0.05")
    p = prepare(small(tmp_path, "method=fedit", "budget=r2", *length, *few))
    assert p.federation is not None
    empty = sum(not len(part) for part in p.federation.rows)
    assert p.total_steps == 2 * (12 - empty) < 24
    run(p.config)
    told = f"clients have no rows: 1 round is {p.total_steps} steps, and not max_steps=24\n"
    assert f"{empty} of 12 {told}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("restart", "warmup", "steps", "percent"),
    [
        ("round", "0.06", 2, 50),
        ("round", "0.06", 10, 10),
        ("round", "0.06", 19, 5),
        ("round", "60", 10, 10),
        ("round", "0.06", 20, None),  # 5 % exactly
        ("round", "0", 2, None),
        ("run", "0.06", 2, None),
    ],
)
def test_rounds_with_many_steps_at_rate_0_are_told_with_their_share(
    restart: str, warmup: str, steps: int, percent: int | None
) -> None:
    words = (f"fed.restart={restart}", f"warmup={warmup}", f"fed.local_steps={steps}")
    config = configure("method=fedit", *words)
    federation = Federation((np.arange(16),) * 3, 20, 3, steps, seed=1)
    note = (
        f"fed.restart=round with warmup={warmup}: one of each round's {steps} steps, the first, "
        f"has rate 0, {percent} % of the training; warmup=0 gives it lr"
    )
    assert idle_note(config, federation) == (None if percent is None else note)
    # The share counted in the course that is trained.
    course = FederatedCourse(config, np.full(16, 9), federation)
    total = federation.total_steps
    idle = sum(course.share(step) == 0 for step in range(1, total + 1)) / total
    assert (idle > 0.05) == (percent is not None)
    assert percent is None or percent == round(100 * idle)
    assert idle_note(config, None) is None


def test_the_note_on_steps_at_rate_0_comes_with_the_others(tmp_path: Path) -> None:
    words = ("method=fedit", "budget=r2", "fed.local_steps=2")
    kept = notes_on(prepare(small(tmp_path, *words)))
    found = notes_on(prepare(small(tmp_path, *words, "fed.restart=round")))
    assert [note for note in found if note not in kept] == [
        "fed.restart=round with warmup=0.06: one of each round's 2 steps, the first, has rate 0, "
        "50 % of the training; warmup=0 gives it lr"
    ]
