"""The committed results: records that name what made them, and a README that shows what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dora.analysis.grouping import read_runs
from runs import load_script, python

RESULTS = Path(__file__).parents[1] / "results"
SCRIPT = str(Path(__file__).parents[1] / "scripts" / "results_page.py")
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
    """Of the largest component, a feed-forward matrix's. The budgets are given as numbers."""
    largest = {"tiny_roberta": 192 + 768, "tiny_deberta": 192 + 768, "minilm": 384 + 1536}
    by_budget: dict[tuple[str, str], list[int]] = {}
    for run in read_runs(folder):
        if run["config"]["budget"] is not None:
            key = (run["config"]["model"], run["config"]["budget"])
            by_budget.setdefault(key, []).append(run["params"]["adapter_end"])
    for (model, budget), numbers in by_budget.items():
        assert max(numbers) <= int(budget)
        assert int(budget) - min(numbers) < largest[model.removesuffix("-random")]


def test_the_pages_show_every_folder_as_its_records_have_it() -> None:
    text = (RESULTS / "README.md").read_text()
    script = load_script("results_page")
    found = {folder for _, _, folder, _ in script.BLOCK.findall(text)}
    # Of the search of `backbones` the page shows only what it chose.
    assert found == {f.relative_to(RESULTS).as_posix() for f in FOLDERS} - {"backbones/search"}
    for page in script.PAGES:
        assert script.page(page) == page.read_text()


def test_the_page_says_how_many_rates_were_chosen_at_an_edge() -> None:
    rates = load_script("rates")
    studies = [
        rates.collect(read_runs(RESULTS / f"study_{name}" / "search"))
        for name in ("tiny", "tiny_deberta", "minilm")
    ]
    searches = [by_rate for found in studies for by_rate in found.values()]
    backbones = rates.collect(read_runs(RESULTS / "backbones" / "search")).values()
    text = " ".join((RESULTS / "README.md").read_text().split())
    assert (
        f"in {sum(map(rates.at_edge, searches))} of the {len(searches)} searches of the three studies"
        in text
    )
    assert (
        f"in {sum(map(rates.at_edge, backbones))} of the {len(backbones)} searches of `backbones`"
        in text
    )


def test_a_page_that_says_something_else_is_told_and_mended(tmp_path: Path) -> None:
    folder = RESULTS / "study_tiny" / "search"
    stale = tmp_path / "README.md"
    stale.write_text(f"before\n<!-- search {folder} -->\n| cola | 99.9 |\n<!-- end -->\nafter\n")
    assert python(SCRIPT, "--check", str(stale)).returncode == 1
    assert python(SCRIPT, str(stale)).returncode == 0
    assert python(SCRIPT, "--check", str(stale)).returncode == 0
    text = stale.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "99.9" not in text
    assert "| cola | lora |" in text
