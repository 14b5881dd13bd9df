"""A run says before it trains which of its splits are not GLUE's whole ones."""

from __future__ import annotations

import numpy as np
import pytest

from dora.data.tasks import AX, TASKS, Rows
from dora.preparing.notes import rows_notes
from runs import configure


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
