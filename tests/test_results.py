"""The committed results: records name their origin, and the README shows what they hold."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import scipy.stats

from dora.plain import dotted
from dora.records import packed
from dora.records.directories import directories
from dora.records.finished import read_runs
from dora.records.identity import ARITHMETIC, NOT_IDENTITY, configuration
from runs import configure, load_script, python

RESULTS = Path(__file__).parents[1] / "results"
SCRIPT = str(Path(__file__).parents[1] / "scripts" / "results_page.py")
# Folders of runs: results/NAME, and beside a study its search of rates.
FOLDERS = sorted(file.parent for file in RESULTS.rglob(packed.NAME))
each = pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.relative_to(RESULTS).as_posix())


@each
def test_every_record_is_done_and_names_commit_machine_and_data(folder: Path) -> None:
    found = directories(folder)
    assert found
    for path in found:
        run = json.loads((path / "run.json").read_text())
        assert run["status"] == "done", path
        assert run["git"]["dirty"] is False, path  # the commit is all of the code that made it
        assert len(run["git"]["commit"]) == 40
        assert run["cpus"]
        assert run["fingerprints"]["data"]
        assert run["fingerprints"]["model"]


@each
def test_adapters_of_one_budget_differ_by_less_than_one_component(folder: Path) -> None:
    """Checks budgets in parameters: the gap is smaller than a feed-forward matrix's component."""
    # The largest component of each model, d_in + d_out.
    largest = {
        "tiny_roberta": 192 + 768,
        "tiny_deberta": 192 + 768,
        "minilm": 384 + 1536,
        "mpnet_base": 768 + 3072,
    }
    by_budget: dict[tuple[str, str], list[int]] = {}
    for run in read_runs(folder):
        # Full fine-tuning and BitFit have none, and an upper bound leaves any gap.
        exact = run["method"]["budget"] != "at_most"
        if exact and (run["config"]["budget"] or "").isdigit():
            key = (run["config"]["model"], run["config"]["budget"])
            by_budget.setdefault(key, []).append(run["params"]["adapter_end"])
    for (model, budget), numbers in by_budget.items():
        assert max(numbers) <= int(budget)
        assert int(budget) - min(numbers) < largest[model.removesuffix("-random")]


def test_the_pages_show_every_folder_as_its_records_have_it() -> None:
    text = "".join(page.read_text() for page in RESULTS.glob("*.md"))
    # The pages' numbers are written between marks by the script; a folder without marks is unseen.
    script = load_script("results_page")
    found = {
        name for _, kind, name, _ in script.BLOCK.findall(text) if kind not in ("pruned", "verdict")
    }
    # The pages show only the choices of the search of `backbones`, not its runs; precision.md shows
    # `precision` by pairs.
    elsewhere = {"backbones/search", "precision"}
    assert found == {f.relative_to(RESULTS).as_posix() for f in FOLDERS} - elsewhere
    for page in script.PAGES:
        assert script.page(page) == page.read_text()


def test_the_page_says_how_many_rates_were_chosen_at_an_edge() -> None:
    of_runs = load_script("results_page").of_runs
    studies = [
        of_runs(read_runs(RESULTS / f"study_{name}" / "search"))
        for name in ("tiny", "tiny_deberta", "minilm")
    ]
    searches = [search for found in studies for search in found]
    backbones = of_runs(read_runs(RESULTS / "backbones" / "search"))
    text = " ".join((RESULTS / "earlier.md").read_text().split())
    # A rate at an edge of its search may not be the best one; the page must own up to these.
    at_edge, of_backbones = (sum(s.at_edge for s in found) for found in (searches, backbones))
    assert f"in {at_edge} of the {len(searches)} searches of the three studies" in text
    assert f"in {of_backbones} of the {len(backbones)} searches of `backbones`" in text


def test_the_page_counts_the_records_of_each_arithmetic() -> None:
    numbers = [run["arithmetic"] for folder in FOLDERS for run in read_runs(folder)]
    text = (RESULTS / "README.md").read_text()
    shown = re.findall(r"^\| (\d) \| [^|]* \| (\d+): ", text, re.MULTILINE)
    assert {int(number): int(count) for number, count in shown} == Counter(numbers)


def test_runs_have_the_settings_of_the_committed_ones_and_those_of_later() -> None:
    # Any other new setting would rename all directories, and these runs would be trained again.
    runs = [
        run for folder in FOLDERS for run in read_runs(folder) if run["arithmetic"] == ARITHMETIC
    ]
    for name, run in {run["config"]["method"]["name"]: run for run in runs}.items():
        now, then = configure(f"method={name}").resolved(), configuration(run)
        differing = dotted(now).keys() ^ dotted(then).keys()
        assert differing <= {*NOT_IDENTITY, "epochs"}, f"{name}: see LATER in CONTRIBUTING.md"


def test_the_answer_is_the_paired_t_test_of_the_records() -> None:
    found: dict[str, dict[int, float]] = {"lora": {}, "dora": {}}
    for run in read_runs(RESULTS / "study_length"):
        c = run["config"]
        if c["method"]["name"] in found and c["task"] == "sst2" and run["total_steps"] == 1800:
            found[c["method"]["name"]][c["seed"]] = 100 * run["results"]["best"]["accuracy"]
    seeds = sorted(found["lora"])
    lora, dora = ([found[name][seed] for seed in seeds] for name in ("lora", "dora"))
    test = scipy.stats.ttest_rel(dora, lora)
    low, high = test.confidence_interval()
    mean = statistics.fmean(dora) - statistics.fmean(lora)
    rows = []
    for page in ("README.md", "results/README.md"):
        lines = (RESULTS.parent / page).read_text().splitlines()
        (line,) = [t for t in lines if re.match(r"\| tiny_roberta +\| 1,800 +\| SST-2 acc ", t)]
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    short, whole = rows
    assert whole[3] == short[3] == f"{statistics.fmean(lora):.1f}"
    assert whole[7] == short[5] == f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
    assert float(whole[8]) >= round(test.pvalue, 3)  # Holm only ever raises it
    assert whole[10] == short[6] == str(len(seeds))


def test_a_change_with_the_length_is_the_t_test_of_its_paired_differences() -> None:
    at: dict[int, dict[str, dict[int, float]]] = {1800: {}, 5400: {}}
    for run in read_runs(RESULTS / "study_length"):
        if run["config"]["task"] == "cola" and (length := at.get(run["total_steps"])) is not None:
            score = 100 * run["results"]["best"]["matthews_correlation"]
            length.setdefault(run["config"]["method"]["name"], {})[run["config"]["seed"]] = score
    lead = {
        steps: [found["dora"][seed] - found["lora"][seed] for seed in sorted(found["lora"])]
        for steps, found in at.items()
    }
    test = scipy.stats.ttest_rel(lead[5400], lead[1800])
    low, high = test.confidence_interval()
    change = statistics.fmean(lead[5400]) - statistics.fmean(lead[1800])
    text = (RESULTS / "study_length.md").read_text()
    block = text.partition("<!-- changes study_length -->")[2].partition("<!-- end -->")[0]
    (line,) = re.findall(r"^\| CoLA Mcc +\| DoRA − LoRA +\|.*$", block, re.MULTILINE)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3:5] == [f"{statistics.fmean(lead[steps]):+.1f}" for steps in (1800, 5400)]
    assert cells[7] == f"{change:+.1f} [{low:+.1f}, {high:+.1f}]"
    assert float(cells[8]) >= round(test.pvalue, 3)  # Holm only ever raises it


@pytest.mark.parametrize(
    ("name", "folder", "metric"),
    [
        ("CoLA", "lr2e-3", "matthews_correlation"),
        ("SST-2", "sst2", "accuracy"),
        ("STS-B", "stsb", "pearson"),
    ],
)
def test_what_a_setting_does_is_the_t_test_of_each_seeds_mean_over_cells(
    name: str, folder: str, metric: str
) -> None:
    # (importance, start_factor, scale) -> dropout and seed -> points
    found: dict[tuple[str, float, float], dict[tuple[float, int], float]] = defaultdict(dict)
    for run in read_runs(RESULTS / "study_length" / "variants" / folder):
        m, seed = run["config"]["method"], run["config"]["seed"]
        setting = m.get("importance", "share"), m["start_factor"], round(run["scale"], 2)
        found[setting][m["dropout"], seed] = 100 * run["results"]["best"][metric]

    text = (RESULTS / "study_length.md").read_text()
    block = text.partition(f"variants study_length/variants/{folder} -->")[2]
    (summary,) = re.findall(rf"^\| {name} \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    importance = found["share", 1.5, 0.67], found["random", 1.5, 0.67]
    pruning = found["share", 1.5, 1.0], found["share", 1.0, 1.0]
    for line, stated, (one, other) in (
        ("importance: share less random, scale 0.67", summary[0], importance),
        ("start_factor: 1.5 less 1.0, scale 1.0", summary[1], pruning),
    ):
        # All dropouts of a seed share its data order and draws, so that they are one sample.
        both = one.keys() & other.keys()
        effects = [
            statistics.fmean(one[key] - other[key] for key in both if key[1] == seed)
            for seed in range(1, 6)
        ]
        test = scipy.stats.ttest_1samp(effects, 0)
        low, high = test.confidence_interval()
        shown = f"{statistics.fmean(effects):+.1f} [{low:+.1f}, {high:+.1f}]"
        cells = re.search(rf"^\| {re.escape(line)} *\|([^|]+)\|([^|]+)\|", block, re.MULTILINE)
        assert cells is not None
        assert [cell.strip() for cell in cells.groups()] == [shown, f"{test.pvalue:.3f}"]
        assert stated == shown


def test_a_page_that_says_something_else_is_told_and_mended(tmp_path: Path) -> None:
    folder = RESULTS / "study_tiny" / "search"
    stale = tmp_path / "README.md"
    # A block whose numbers somebody typed, or that results have outrun.
    stale.write_text(f"before\n<!-- search {folder} -->\n| cola | 99.9 |\n<!-- end -->\nafter\n")
    assert python(SCRIPT, "--check", str(stale)).returncode == 1
    assert python(SCRIPT, str(stale)).returncode == 0
    assert python(SCRIPT, "--check", str(stale)).returncode == 0
    text = stale.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "99.9" not in text
    assert "| cola | lora " in text
