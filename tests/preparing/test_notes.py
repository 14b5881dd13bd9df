"""A run says before it trains which splits are not GLUE's whole ones, and what exceeds the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dora.data.tasks import AX, TASKS, Rows
from dora.preparing.notes import beyond_notes, notes_on, rows_notes
from dora.preparing.prepare import prepare
from runs import configure, small


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, []),
        (
            {"dev_mm": 300},
            ["not GLUE's whole rows: mnli dev_mm 300 rows (GLUE has 9,832); tables say so; "],
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
