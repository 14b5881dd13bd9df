"""The tour in docs/python.md, run as it stands there."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

import dora
from dora.attaching.attach import unserved
from dora.configuration.method_choice import packaged
from dora.methods.released import RELEASED

TOUR = Path(__file__).parents[2] / "docs" / "python.md"
PIECES = re.findall(r"```python\n(.*?)```", TOUR.read_text(), re.DOTALL)


def test_no_piece_is_longer_than_fifteen_lines() -> None:
    assert len(PIECES) >= 8
    assert all(len(piece.strip().splitlines()) <= 15 for piece in PIECES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the libraries'
def test_every_piece_runs_and_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for piece in PIECES:
            exec(piece, names)  # it is this repository's own page
    text = said.getvalue()
    assert "after step 40 of 40: 96 components in 12 matrices" in text
    assert "{'0': 4}\n4\n" in text
    (apart,) = re.findall(r"tensor\(([\d.e-]+)", text)
    assert float(apart) < 1e-5
    assert names["adapter"].taken == 10
    assert names["run"].record["status"] == "done"
    assert len(names["table"]) == 1
    assert (tmp_path / "out" / "checkpoint-20").is_dir()


def test_the_methods_that_can_be_attached_are_named_wherever_they_are_listed() -> None:
    working = {name for name in RELEASED if not unserved(packaged(name).kind)}
    listed = TOUR.read_text().split("- `method`: ")[1].split("The others")[0]
    told = str(dora.attach.__doc__).split("`method`: ")[1].split(". `budget`")[0]
    assert working == set(re.findall(r"`([a-z_]+)`", listed)) - {"use_dora"}
    assert working == set(re.split(r",\s*|\s+or\s+", told))
