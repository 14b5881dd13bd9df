"""Methods against LoRA at one budget: paired, corrected, and which of a column are told apart."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from dora.analysis.comparison import Leaders, differences, leaders, pairs
from dora.analysis.grouping import showable, tables
from dora.analysis.table import Table
from dora.analysis.tables.differences import difference_notes
from dora.analysis.tables.scores import scores
from dora.analysis.view import View
from dora.records.finished import read_runs
from record_files import write_run

LORA, DORA, ADALORA = (("lora", "r8"), ("dora", "r8"), ("adalora", "r8"))


def scored(results: Path, method: str, values: dict[int, float], task: str = "sst2") -> None:
    # `values` in points, as tables show them; records hold fractions.
    for seed, value in values.items():
        write_run(results, method, seed, value / 100, task=task)


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    scored(tmp_path, "lora", {1: 80, 2: 60, 3: 70})
    scored(tmp_path, "dora", {1: 81, 2: 62, 3: 73, 4: 10})  # no LoRA run of seed 4
    (table,) = tables(read_runs(tmp_path))
    assert pairs(table, DORA, LORA, "sst2") == pytest.approx([1, 2, 3])
    (found,) = differences(table)
    # By hand: mean 2, error 1 / sqrt(3), t(0.975, 2) = 4.303; of 4 x 3 pairs of runs DoRA's is the
    # higher in 6.
    assert found.estimate.interval() == pytest.approx(
        (2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3
    )
    assert (found.row, found.seeds, found.better) == (DORA, (3,), pytest.approx(6 / 12))
    assert found.p == pytest.approx(stats.ttest_1samp([1, 2, 3], 0).pvalue, rel=1e-3)


def test_another_baseline_is_compared_with_at_equal_budget_or_without_one(tmp_path: Path) -> None:
    scored(tmp_path, "lora", {1: 80, 2: 60, 3: 70})
    scored(tmp_path, "dora", {1: 81, 2: 62, 3: 73})
    for seed, value in {1: 90, 2: 72, 3: 81}.items():
        write_run(tmp_path, "full", seed, value / 100, budget="none")
        # Compared with no baseline: neither has a budget, so that their sizes may differ.
        write_run(tmp_path, "bitfit", seed, value / 100, budget="none")

    def found(baseline: str) -> dict[str, float]:
        (table,) = tables(read_runs(tmp_path), View(baseline=baseline))
        assert table.name == f"dir-minilm-best-from-{baseline}"
        # The test of the table of differences is that of the marks, too.
        assert leaders(table)["r8", "sst2"].best == {DORA}
        return {d.row[0]: d.estimate.mean for d in differences(table)}

    assert found("dora") == pytest.approx({"lora": -2})
    assert found("full") == pytest.approx({"lora": -11, "dora": -9})


def test_all_comparisons_of_a_table_are_one_family(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    values = {
        m: {t: dict(enumerate(random.normal(80, 1, 4))) for t in ("sst2", "rte")}
        for m in ("lora", "dora", "adalora")
    }
    for method, by_task in values.items():
        for task, of_task in by_task.items():
            scored(tmp_path, method, of_task, task)
    (table,) = tables(read_runs(tmp_path))
    averages = [d for d in differences(table) if d.task is None]
    found = [d for d in differences(table) if d.task is not None]
    # Two methods on two tasks: four tests, which SciPy and statsmodels make here.
    raw = [
        stats.ttest_rel(
            list(values[d.row[0]][d.task or ""].values()),
            list(values["lora"][d.task or ""].values()),
        ).pvalue
        for d in found
    ]
    assert len(found) == 4
    assert [d.p for d in found] == pytest.approx(
        list(multipletests(raw, method="holm")[1]), rel=1e-3
    )
    # The averages are a family of their own.
    assert [d.family for d in averages] == [2, 2]


def test_the_detectable_difference_is_that_of_holms_first_step(tmp_path: Path) -> None:
    scored(tmp_path, "lora", {1: 80, 2: 60, 3: 70})
    scored(tmp_path, "dora", {1: 81, 2: 62, 3: 73})
    scored(tmp_path, "adalora", {1: 82, 2: 61, 3: 74})
    (table,) = tables(read_runs(tmp_path))
    found = differences(table)
    # Two comparisons: the smaller p value is tested at 0.05 / 2.
    assert [d.detectable for d in found] == [d.estimate.detectable(0.025) for d in found]
    assert len(found) == 2
    # No rounded number, which could be above the one that the test has.
    assert "reach p < 0.05 / 2 (Holm's" in difference_notes(found, "LoRA")[1]
    alone = [replace(found[0], family=1)]
    assert "reach p < 0.05 (Holm's" in difference_notes(alone, "LoRA")[1]


def test_nothing_is_compared_over_unequal_evaluations_or_without_two_pairs(tmp_path: Path) -> None:
    scored(tmp_path / "a", "lora", {1: 80, 2: 81})
    write_run(tmp_path / "a", "dora", 1, 0.9, evaluations={"counted": 9, "from_step": 46})
    write_run(tmp_path / "a", "dora", 2, 0.9)
    (table,) = tables(read_runs(tmp_path / "a"))
    assert differences(table) == []
    assert leaders(table) == {}
    # Nor is one of the others with the next, which would be a family of its own.
    scored(tmp_path / "a", "adalora", {1: 70, 2: 71})
    (table,) = tables(read_runs(tmp_path / "a"))
    assert leaders(table) == {}
    # The last evaluation is not chosen, so that their number does not matter.
    (last,) = tables(read_runs(tmp_path / "a"), View("last"))
    assert len(differences(last)) == 2
    scored(tmp_path / "b", "lora", {1: 80, 2: 81})
    scored(tmp_path / "b", "dora", {2: 80, 3: 81})
    (table,) = tables(read_runs(tmp_path / "b"))
    assert differences(table) == []
    # One shared seed tests nothing, so nothing is marked.
    assert leaders(table) == {}


def test_the_best_leads_and_whatever_the_seeds_do_not_tell_from_it(tmp_path: Path) -> None:
    scored(tmp_path, "lora", {1: 80.0, 2: 82.0, 3: 81.0})
    scored(tmp_path, "adalora", {1: 79.0, 2: 83.0, 3: 80.0})  # differences 1, -1, 1: p = 0.42
    scored(tmp_path, "dora", {1: 75.0, 2: 77.1, 3: 76.0})  # differences 5, 4.9, 5: p < 0.001
    (table,) = tables(read_runs(tmp_path))
    assert leaders(table) == {("r8", "sst2"): Leaders(frozenset({LORA}), frozenset({ADALORA}))}


def test_a_row_that_is_shown_to_be_lower_is_not_the_best_for_its_fewer_seeds(
    tmp_path: Path,
) -> None:
    scored(tmp_path, "lora", {1: 90, 2: 90.1, 3: 90.2, 4: 70, 5: 70.3})
    scored(tmp_path, "dora", {1: 88, 2: 88.1, 3: 88.25})
    (table,) = tables(read_runs(tmp_path))
    (found,) = differences(table)
    assert (found.estimate.mean < 0, found.p < 0.05) == (True, True)
    assert leaders(table)["r8", "sst2"] == Leaders(frozenset({LORA}), frozenset())


def test_an_average_says_where_it_is_too_certain(tmp_path: Path) -> None:
    for task, more in (("sst2", (0, 0, 0)), ("rte", (1, 2, 3))):
        scored(tmp_path, "lora", {1: 80, 2: 60, 3: 70}, task)
        scored(
            tmp_path,
            "dora",
            {s: 70 + 10 * (s == 1) - 10 * (s == 2) + more[s - 1] for s in (1, 2, 3)},
            task,
        )
    (table,) = tables(read_runs(tmp_path))
    (average,) = (d for d in differences(table) if d.task is None)
    assert average.constant == ("sst2",)
    (note,) = [n for n in difference_notes([average], "LoRA") if "too certain" in n]
    assert "for a method that every seed gives the same difference on SST-2" in note


def test_an_equal_difference_that_is_not_0_makes_an_average_too_certain_as_well(
    tmp_path: Path,
) -> None:
    for task, more in (("sst2", (1, 1, 1)), ("rte", (-1, 0, 1))):
        before = {1: 80, 2: 60, 3: 70}
        scored(tmp_path, "lora", before, task)
        scored(tmp_path, "dora", {s: v + more[s - 1] for s, v in before.items()}, task)
    (table,) = tables(read_runs(tmp_path))
    (average,) = (d for d in differences(table) if d.task is None)
    # Not RTE, whose mean difference is 0 and whose seeds differ.
    assert average.constant == ("sst2",)


def test_a_task_whose_every_cell_is_left_out_leaves_the_average_to_the_others(
    tmp_path: Path,
) -> None:
    for task in ("sst2", "rte"):
        scored(tmp_path, "lora", {1: 80, 2: 60}, task)
    write_run(tmp_path, "dora", 1, 0.7, task="rte", fingerprints={"data": "other"})
    table = showable(read_runs(tmp_path), View())[0][0]
    assert table.averaged == ["sst2"]
    assert any(note.startswith("RTE: its rows are not the same") for note in table.left_out)


def test_rows_of_equal_means_are_all_the_best(tmp_path: Path) -> None:
    # 60.3 twice, which computes to 60.29999999999999 and 60.300000000000004.
    scored(tmp_path, "lora", {1: 60.1, 2: 60.3, 3: 60.5})
    scored(tmp_path, "dora", {1: 60.5, 2: 60.4, 3: 60.0})
    scored(tmp_path, "adalora", {1: 50.0, 2: 65.0, 3: 50.0})
    (table,) = tables(read_runs(tmp_path))
    assert leaders(table) == {
        ("r8", "sst2"): Leaders(frozenset({LORA, DORA}), frozenset({ADALORA}))
    }


def test_a_row_that_one_of_two_best_is_shown_to_beat_is_not_alike(tmp_path: Path) -> None:
    scored(tmp_path, "lora", {1: 70.1, 2: 70.3, 3: 70.2})
    scored(tmp_path, "dora", {1: 70.3, 2: 70.2, 3: 70.1})  # the same in another order
    # From LoRA 0.11, 0.09 and 0.1: p = 0.003. From DoRA 0.31, -0.01 and 0: p = 0.4.
    scored(tmp_path, "adalora", {1: 69.99, 2: 70.21, 3: 70.1})
    (table,) = tables(read_runs(tmp_path))
    assert leaders(table) == {("r8", "sst2"): Leaders(frozenset({LORA, DORA}), frozenset())}


def test_a_row_that_is_tested_with_one_of_two_best_alone_is_marked_by_that_test(
    tmp_path: Path,
) -> None:
    scored(tmp_path, "lora", {1: 60.1, 2: 60.3, 3: 60.5})
    scored(tmp_path, "dora", {1: 60.5, 2: 60.4, 3: 60.0, 4: 60.3, 5: 60.3})
    # Seeds that DoRA shares and LoRA lacks; AdaLoRA is 0.2 and 0 lower there, SoRA 1 and 1.0001.
    scored(tmp_path, "adalora", {4: 60.1, 5: 60.3})
    scored(tmp_path, "sora", {4: 59.3, 5: 59.2999})
    scored(tmp_path, "melora", {4: 60.2})
    (table,) = tables(read_runs(tmp_path))
    found = leaders(table)["r8", "sst2"]
    assert (found.best, found.alike) == ({LORA, DORA}, {ADALORA})
    assert found.untested == {("melora", "r8")}
    # MELoRA is named as not tested with the bold scores, LoRA's among them.
    said = "not compared with LoRA: AdaLoRA r8; sora r8 (fewer than two seeds in common)"
    assert said in scores(table).notes


def test_a_higher_score_of_one_seed_is_not_marked_and_a_note_says_why(tmp_path: Path) -> None:
    scored(tmp_path, "lora", {1: 80.0, 2: 82.0})
    scored(tmp_path, "dora", {1: 79.0, 2: 79.5})
    scored(tmp_path, "adalora", {1: 99.0})
    (table,) = tables(read_runs(tmp_path))
    found = leaders(table)["r8", "sst2"]
    assert (found.best, found.untested) == ({LORA}, {ADALORA})
    told = "not tested against the bold score, and so not marked however high: AdaLoRA r8 on SST-2 (fewer"
    assert any(note.startswith(told) for note in scores(table).notes)
    # With a second seed there is nothing to say.
    scored(tmp_path, "adalora", {2: 99.5})
    (table,) = tables(read_runs(tmp_path))
    assert not any("not tested" in note for note in scores(table).notes)


def test_a_row_alone_leads_nobody(tmp_path: Path) -> None:
    scored(tmp_path, "lora", {1: 80.0, 2: 82.0})
    scored(tmp_path, "dora", {1: 80.0, 2: 82.0}, task="rte")
    (table,) = tables(read_runs(tmp_path))
    assert leaders(table) == {}


def test_the_highest_mean_is_bold_though_only_a_lower_one_is_shown_to_beat_lora(
    tmp_path: Path,
) -> None:
    scored(tmp_path, "lora", {1: 80.0, 2: 82.0, 3: 81.0})
    scored(tmp_path, "dora", {1: 85.0, 2: 87.1, 3: 86.0})  # differences 5, 5.1, 5
    scored(tmp_path, "adalora", {1: 70.0, 2: 99.0, 3: 98.0})  # mean 89, seeds that tell nothing
    (table,) = tables(read_runs(tmp_path))
    # Neither is shown to be lower than AdaLoRA, so both are underlined.
    assert leaders(table) == {
        ("r8", "sst2"): Leaders(frozenset({ADALORA}), frozenset({LORA, DORA}))
    }


def test_pairs_without_lora_are_a_family_of_their_own(tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    methods, tasks = ("lora", "adalora", "dora", "sora"), ("sst2", "rte")
    shifts = {"lora": 0.0, "adalora": 2.5, "dora": 4.0, "sora": 3.9}
    values = {
        (m, t): {seed: 70 + shifts[m] + random.normal(0, 0.5) for seed in range(5)}
        for m, t in product(methods, tasks)
    }
    for (method, task), of_task in values.items():
        scored(tmp_path, method, of_task, task)
    (table,) = tables(read_runs(tmp_path))

    def p_of(one: str, two: str, task: str) -> float:
        """Returns SciPy's p value of the paired test, uncorrected."""
        a, b = (list(values[m, task].values()) for m in (one, two))
        return float(stats.ttest_rel(a, b).pvalue)

    # Every method with LoRA; the other three with each other; each on both tasks.
    told: dict[tuple[str, str, str], bool] = {}
    for family in (
        [("lora", m) for m in methods[1:]],
        [("adalora", "dora"), ("adalora", "sora"), ("dora", "sora")],
    ):
        keys = [(*pair, task) for pair in family for task in tasks]
        raw = [p_of(*key) for key in keys]
        told |= dict(zip(keys, multipletests(raw, method="holm")[0], strict=True))
    expected = {}
    for task in tasks:
        best = max(methods, key=lambda m: np.mean(list(values[m, task].values())))
        alike = {
            m
            for m in methods
            if m != best and not told.get((m, best, task), told.get((best, m, task)))
        }
        expected["r8", task] = Leaders(
            frozenset({(best, "r8")}), frozenset((m, "r8") for m in alike)
        )
    by_task = {key: found for key, found in leaders(table).items() if key[1] is not None}
    assert by_task == expected
    # The draw is one in which rows are told from the best, and not all of them.
    assert {len(found.alike) for found in expected.values()} <= {1, 2}


@pytest.mark.parametrize(
    ("lower", "alike"),
    [
        # p = 0.024 by itself, and 0.071 as the smallest of three.
        ((1.0, 1.3, 0.75), {"lora", "adalora", "sora"}),
        # p = 0.010, and 0.029 as the smallest of three; of all six it would be 0.059.
        ((1.0, 1.2, 0.85), {"lora", "adalora"}),
    ],
)
def test_pairs_without_lora_are_corrected_for_their_own_number(
    lower: tuple[float, ...], alike: set[str], tmp_path: Path
) -> None:
    dora = {1: 85.0, 2: 86.0, 3: 84.0}
    scored(tmp_path, "dora", dora)
    scored(tmp_path, "sora", {seed: dora[seed] - d for seed, d in enumerate(lower, 1)})
    # Seeds that tell nothing: every other test has a p value above 0.2.
    scored(tmp_path, "lora", {1: 90.0, 2: 70.0, 3: 85.0})
    scored(tmp_path, "adalora", {1: 70.0, 2: 95.0, 3: 80.0})
    (table,) = tables(read_runs(tmp_path))
    assert leaders(table) == {
        ("r8", "sst2"): Leaders(frozenset({DORA}), frozenset((m, "r8") for m in alike))
    }


def marks_against_p_values(table: Table) -> int:
    """Asserts that marks and p of every comparison agree. Returns the number of comparisons."""
    grid = scores(table)
    bold, underlined = (
        {(table.rows[i], grid.head[j]) for i, j in cells} for cells in (grid.bold, grid.underlined)
    )
    found = differences(table)
    for d in found:
        head = table.view.title(d.task) if d.task else "average [95 %]"
        rows = (d.row, ("lora", d.row[1]))
        assert any((row, head) in bold for row in table.rows if row[1] == d.row[1])
        for row, other, sign in ((*rows, 1), (*rows[::-1], -1)):
            # NaN is not below: a difference that was not tested is not told.
            told_lower = d.p < 0.05 and sign * d.estimate.mean < 0
            if (other, head) in bold and (row, head) in bold:
                assert d.estimate.mean == pytest.approx(0, abs=1e-9)
            elif (other, head) in bold:
                assert ((row, head) in underlined) is not told_lower, d
    # No cell has both marks, and bold cells of a budget in a column show one mean.
    assert not bold & underlined
    shown = {(table.rows[i], grid.head[j]): grid.rows[i][j].split()[0] for i, j in grid.bold}
    assert len({(row[1], head, text) for (row, head), text in shown.items()}) == len(
        {(row[1], head) for row, head in bold}
    )
    return len(found)


@pytest.mark.parametrize("seed", [0, 2, 4])
def test_no_mark_contradicts_a_p_value_in_random_tables(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    for method, task in product(("lora", "dora", "adalora"), ("sst2", "rte", "cola", "wnli")):
        for budget, run in product(("r2", "r8"), range(1, 5)):
            # Equal methods mostly, so that near and clear differences both occur.
            shift = 0 if method == "lora" else random.choice([0, 0, 1, -1, 3])
            score = (70 + shift + random.normal(0, 0.6)) / 100
            write_run(tmp_path, method, run, score, task=task, budget=budget)
    (table,) = tables(read_runs(tmp_path))
    # Two methods and two budgets: averaged, and on four tasks.
    assert marks_against_p_values(table) == 4 + 16


@pytest.mark.parametrize("name", ["study_tiny", "study_tiny_deberta", "study_minilm"])
def test_no_mark_contradicts_a_p_value_in_the_committed_studies(name: str) -> None:
    for table in tables(read_runs(Path(__file__).parents[2] / "results" / name)):
        assert marks_against_p_values(table) > 0


def test_one_seed_has_no_leader(tmp_path: Path) -> None:
    scored(tmp_path, "lora", {1: 80})
    scored(tmp_path, "dora", {1: 70})
    (table,) = tables(read_runs(tmp_path))
    assert leaders(table) == {}


def test_the_examples_interval_is_of_the_same_paired_difference(tmp_path: Path) -> None:
    labels, gain = np.zeros(400, int), np.zeros(400)
    for seed in (1, 2):
        for method, wrong in (("lora", 100), ("dora", 80 + 10 * seed)):
            predicted = np.zeros(400, int)
            predicted[:wrong] = 1
            # In points; two runs a side.
            gain += 100 * (predicted == labels) * (1 if method == "dora" else -1) / 2
            write_run(tmp_path, method, seed, 1 - wrong / 400, labels=labels, predicted=predicted)
    # A seed that LoRA lacks is in no pair, and so in neither interval.
    write_run(tmp_path, "dora", 3, 0.0, labels=labels, predicted=np.ones(400, int))
    (table,) = tables(read_runs(tmp_path))
    (found,) = differences(table)
    assert found.examples is not None
    # Rows 90 to 99 are right in DoRA's first run alone, and none in one run of LoRA's alone:
    # 10 / 400 / 2 = 1.25 points, binomial over 400 rows.
    spread = 1.96 * 100 / 2 * (0.025 * 0.975 / 400) ** 0.5
    assert found.estimate.mean == pytest.approx(1.25)
    assert found.examples == pytest.approx((1.25 - spread, 1.25 + spread), abs=0.15)
    # The same generator draws the same examples; 2.5 % of the resamples lie to each side.
    means = gain[np.random.default_rng(0).integers(0, 400, (1000, 400))].mean(1)
    assert found.examples == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_spearman_and_runs_without_predictions_have_no_examples_interval(tmp_path: Path) -> None:
    labels = np.arange(9.0)
    for method, seed in product(("lora", "dora"), (1, 2)):
        both = {"pearson": 1.0, "spearmanr": 1.0}
        for name in ("a", "b"):
            path = write_run(tmp_path / name, method, seed, None, task="stsb", metrics=both)
            stored = {f"{which}/dev/logits": labels[:, None] + seed for which in ("best", "last")}
            if name == "a":
                np.savez(path / "predictions.npz", **{"dev/labels": labels}, **stored)

    def has_examples(name: str, metric: str) -> bool:
        view = View(metrics={"stsb": metric})
        return differences(tables(read_runs(tmp_path / name), view)[0])[0].examples is not None

    assert (has_examples("a", "pearson"), has_examples("a", "spearmanr")) == (True, False)
    assert not has_examples("b", "pearson")


def test_the_examples_interval_is_absent_where_one_run_of_a_pair_lacks_predictions(
    tmp_path: Path,
) -> None:
    labels = np.zeros(40, int)
    for method, seed, wrong in (("lora", 1, 10), ("lora", 2, 8), ("dora", 1, 6), ("dora", 2, 4)):
        kept = {"labels": labels, "predicted": (np.arange(40) < wrong).astype(int)}
        lacks = (method, seed) == ("lora", 2)
        write_run(tmp_path, method, seed, 1 - wrong / 40, **({} if lacks else kept))
    (table,) = tables(read_runs(tmp_path))
    (found,) = differences(table)
    assert (found.seeds, found.examples) == ((2,), None)


def test_a_row_without_a_seed_in_common_with_lora_is_not_marked(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path, "lora", seed, 0.5 + seed / 100)
        write_run(tmp_path, "dora", seed + 3, 0.7 + seed / 100)
    (table,) = tables(read_runs(tmp_path))
    assert leaders(table) == {}


def test_what_is_not_compared_for_want_of_seeds_is_named_once(tmp_path: Path) -> None:
    def named(name: str) -> list[str]:
        (table,) = tables(read_runs(tmp_path / name))
        return [note for note in scores(table).notes if note.startswith("not ")]

    # Nothing is bold: no seed is shared.
    scored(tmp_path / "a", "lora", {1: 80, 2: 81})
    scored(tmp_path / "a", "dora", {3: 80, 4: 81})
    said = "not compared with LoRA: DoRA (dynamic rank) r8 (fewer than two seeds in common)"
    assert named("a") == [said]
    # A task on which a row has no score at all is a hole of the table, which needs no note.
    for seed in (1, 2):
        write_run(tmp_path / "a", "dora", seed, None, task="rte")
    scored(tmp_path / "a", "lora", {1: 60, 2: 61}, "rte")
    assert named("a") == [said.replace(" (fewer", " on SST-2 (fewer")]
    # On one task of two; AdaLoRA, which is compared, is the best, and so has the bold scores.
    for task in ("sst2", "rte"):
        scored(tmp_path / "b", "lora", {1: 80, 2: 81, 3: 80}, task)
        scored(tmp_path / "b", "adalora", {1: 90, 2: 92, 3: 91, 4: 90}, task)
    scored(tmp_path / "b", "dora", {1: 85, 2: 86, 3: 85}, "sst2")
    scored(tmp_path / "b", "dora", {3: 85, 4: 86}, "rte")
    assert named("b") == [
        "not compared with LoRA: DoRA (dynamic rank) r8 on RTE, average (fewer than two seeds in "
        "common)"
    ]
    # The note on marks says it where the bold score is LoRA's, and one seed in all is said as such.
    scored(tmp_path / "c", "lora", {1: 80, 2: 82})
    scored(tmp_path / "c", "dora", {1: 70, 2: 71})
    scored(tmp_path / "c", "adalora", {1: 79})
    (note,) = named("c")
    assert note.startswith(
        "not tested against the bold score, and so not marked however high: AdaLoRA"
    )
    scored(tmp_path / "d", "lora", {1: 80})
    scored(tmp_path / "d", "dora", {1: 80})
    assert named("d") == []
    # One row with a second seed is enough for a reader to expect a comparison.
    scored(tmp_path / "d", "lora", {2: 81})
    assert named("d") == [said]
