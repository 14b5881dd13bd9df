"""`dora.load`: one row a run, from packed records as from directories, and every column explained."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import dora
from dora.errors import UserError
from dora.records.finished import read_runs

ROOT = Path(__file__).parents[2]


def test_a_packed_study_has_one_row_a_run_with_its_scores() -> None:
    table = dora.load(ROOT / "results" / "study_tiny_deberta")
    runs = read_runs(ROOT / "results" / "study_tiny_deberta")
    assert len(table) == len(runs) > 10
    by_place = table.set_index(["task", "method", "budget", "seed"])
    for run in runs:
        task, _, method, budget = run["folder"].parts[-6:-2]
        row = by_place.loc[task, method, budget, run["seed"]]
        metric = next(name for name in run["results"]["best"] if name != "step")
        assert row[f"best.{metric}"] == run["results"]["best"][metric]
    assert table["folder"].isna().all()  # unpacked in a folder of this process alone


def test_every_column_is_explained() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    explained = {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}
    columns = dora.load(ROOT / "results" / "study_tiny_deberta").columns
    names = {f"{name.partition('.')[0]}.…" if "." in name else name for name in columns}
    assert names - explained == set()


def test_an_empty_folder_and_a_missing_library_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="holds no finished run: give the folder that holds runs/"):
        dora.load(tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        dora.load(tmp_path)
