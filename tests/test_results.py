"""The committed results: records that name what made them, and a README that shows what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dora.cells import read_runs, tables
from dora.data.tasks import TASKS
from dora.grid import markdown
from dora.sheets import against, scores
from runs import python

RESULTS = Path(__file__).parents[1] / "results"
SCRIPT = Path(__file__).parents[1] / "scripts" / "rates.py"
# Folders of runs: results/NAME, and beside a study its search of rates.
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/**/runs") if path.parent != RESULTS)
each = pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.relative_to(RESULTS).as_posix())


@each
def test_every_record_is_done_and_names_commit_machine_and_data(folder: Path) -> None:
    paths = sorted((folder / "runs").rglob("run.json"))
    assert paths
    for path in paths:
        run = json.loads(path.read_text())
        assert run["status"] == "done", path
        assert run["git"]["dirty"] is False, path
        assert len(run["git"]["commit"]) == 40
        assert run["cpus"]
        assert run["fingerprints"]["data"]
        assert run["fingerprints"]["model"]


@each
def test_adapters_of_one_budget_differ_by_less_than_one_component(folder: Path) -> None:
    """A component of the tiny models costs 384 (attention) or 960 parameters; the budgets are given as numbers."""
    by_budget: dict[tuple[str, str], list[int]] = {}
    for run in read_runs(folder):
        if run["config"]["budget"] is not None:
            key = (run["config"]["model"], run["config"]["budget"])
            by_budget.setdefault(key, []).append(run["params"]["adapter_end"])
    for (_, budget), numbers in by_budget.items():
        assert max(numbers) <= int(budget)
        assert int(budget) - min(numbers) < 960


@each
def test_the_readme_shows_the_tables_that_the_records_give(folder: Path) -> None:
    text = (RESULTS / "README.md").read_text()
    if folder.name == "search":
        if folder.parent.name == "backbones":
            pytest.skip("of this search the page shows only what it chose")
        done = python(str(SCRIPT), str(folder))
        assert done.returncode == 0, done.stderr
        assert done.stdout.split("\n\nrates:")[0] in text
        return
    for table in tables(read_runs(folder)):
        assert set(table.tasks) <= set(TASKS)
        compared = [
            against(table, by_task=True),
            *([against(table, by_task=False)] if len(table.averaged) > 1 else []),
        ]
        for grid in [scores(table), *compared]:
            assert grid is None or markdown(grid) in text
