"""Learning rates are chosen by held-out scores alone, and the effort of a search is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from searches import search_at

import record_files
from dora.analysis.figures.log_axis import apart
from dora.analysis.figures.searches import label, score_by_rate
from dora.analysis.grouping import tables
from dora.analysis.searches import heldout_loss, in_order, unequal
from dora.analysis.tables.notes import score_notes
from dora.analysis.tables.searches import table
from dora.configuration.search_file import Key, Search
from dora.records.finished import read_runs
from runs import load_script

of_runs = load_script("results_page").of_runs


def write_run(
    folder: Path,
    method: str,
    lr: float,
    heldout: float | None,
    dev: float,
    seed: int = 1,
    model: str = "m",
    losses: tuple[float, ...] = (),
    **settings: float,
) -> None:
    """Writes a run's record; `heldout`: its score on the held-out part, None if undefined.

    `losses`: on that part at steps 50, 100 and so on, each with the same score.
    """
    best = {"step": 400, "accuracy": dev}
    if heldout is not None:
        best["accuracy_heldout"] = heldout
    named = {"name": method, **settings}
    config = {"task": "rte", "method": named, "lr": lr, "select": "heldout"}
    results = {which: {**best, "degenerate": None} for which in ("best", "last")}
    more = {"config": config, "results": results}
    key = "-".join(map(str, (lr, *settings.values())))
    # The key stands for the hash that a configuration would have in a real directory's name.
    path = record_files.write_run(
        folder, method, seed, dev, task="rte", key=key, model=model, **more
    )
    lines = [
        {"step": 50 * (i + 1), "split": "heldout", "loss_heldout": x, "accuracy_heldout": heldout}
        for i, x in enumerate(losses)
    ]
    if lines:
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def searches(folder: Path) -> list[Search]:
    return of_runs(read_runs(folder))


def chosen(folder: Path) -> dict[str, float]:
    """Returns the rate of each search by its method."""
    return {search.key.method: search.lr for search in searches(folder)}


def test_the_rate_with_the_best_heldout_mean_wins_whatever_the_development_set_says(
    tmp_path: Path,
) -> None:
    # The development set would choose 0.001 for both, with 0.9 against 0.1.
    for method in ("lora", "dora"):
        write_run(tmp_path, method, 1e-3, 0.60, dev=0.9)
        write_run(tmp_path, method, 1e-3, 0.62, dev=0.9, seed=2)
        write_run(tmp_path, method, 3e-3, 0.65 if method == "lora" else 0.5, dev=0.1)
        write_run(tmp_path, method, 3e-3, 0.61 if method == "lora" else 0.7, dev=0.1, seed=2)
    assert chosen(tmp_path) == {"dora": 1e-3, "lora": 3e-3}
    text = table(searches(tmp_path))[0]
    assert "0.001: 61.0, **0.003: 63.0** (edge)" in text
    assert unequal(searches(tmp_path)) == []


def test_seeds_that_choose_another_rate_by_themselves_are_counted(tmp_path: Path) -> None:
    # Scores of seeds 1 and 2 at 0.001 and at 0.002.
    scores = {
        "lora": ((0.60, 0.50), (0.61, 0.62)),  # both choose 0.002
        "dora": ((0.60, 0.62), (0.65, 0.61)),  # seed 2 chooses 0.001, the mean 0.002
        "adalora": (
            (0.60, None),
            (0.55, 0.50),
        ),  # at 0.001 seed 2 has no score, and seed 1 its best
        "full": ((0.60, 0.60), (0.60, 0.60)),  # of equal ones each takes the lower
        "melora": ((0.60, 0.60), (0.60, 0.61)),  # seed 1 takes the lower, both 0.002
        "sora": ((0.0, None), (None, 0.0)),  # nothing was chosen that anyone could agree on
    }
    for method, by_rate in scores.items():
        for lr, by_seed in zip((1e-3, 2e-3), by_rate, strict=True):
            for seed, heldout in enumerate(by_seed, 1):
                write_run(tmp_path, method, lr, heldout, dev=0.5, seed=seed)
    found = {s.key.method: s.agreed for s in searches(tmp_path)}
    agreed = {method for method, agrees in found.items() if agrees}
    assert agreed == {"lora", "full"}
    assert (
        "in 2 of 5 searches each seed by itself chooses the same rate; in the others more seeds may "
        "move the choice"
    ) in table(searches(tmp_path))
    # Rates without any score have none that could be the same.
    assert "every rate has the same score: rte full" in table(searches(tmp_path))
    # One seed says nothing of another.
    write_run(tmp_path / "one", "lora", 1e-3, 0.6, dev=0.5)
    assert not any("each seed" in line for line in table(searches(tmp_path / "one")))


def test_every_rate_chosen_at_an_edge_is_marked_and_counted(tmp_path: Path) -> None:
    # Held-out scores at rates of 0.001, 0.002 and 0.004; full's best two are equal, the lower wins.
    scores = {
        "lora": (0.5, 0.6, 0.5),
        "dora": (0.7, 0.6, 0.5),
        "adalora": (0.4, 0.5, 0.6),
        "full": (0.5, 0.5, 0.4),
    }
    for method, of_rates in scores.items():
        for lr, heldout in zip((1e-3, 2e-3, 4e-3), of_rates, strict=True):
            write_run(tmp_path, method, lr, heldout, dev=0.5)
    text, _, summary = table(searches(tmp_path))
    assert "0.001: 50.0, **0.002: 60.0**, 0.004: 50.0 " in text
    assert "**0.001: 70.0** (edge), 0.002: 60.0, 0.004: 50.0 " in text
    assert "0.001: 40.0, 0.002: 50.0, **0.004: 60.0** (edge) " in text
    edges = "rte adalora, rte dora, rte full"  # LoRA's best rate lies inside
    assert summary == f"3 of 4 searches chose a rate at an edge of their grid: {edges}"


def test_of_rates_with_one_score_the_lowest_counted_loss_chooses_and_is_shown(
    tmp_path: Path,
) -> None:
    # Evaluations count from step 46 on in these records: each of the losses does, and the lowest
    # stands for the run, whose score is the same at all of them.
    for lr, losses in ((1e-3, (0.62, 0.61)), (2e-3, (0.60, 0.63)), (4e-3, (0.61, 0.61))):
        write_run(tmp_path, "lora", lr, 0.5, dev=0.5, losses=losses)
        write_run(tmp_path, "dora", lr, 0.5 if lr < 3e-3 else 0.4, dev=0.5, losses=losses)
        write_run(tmp_path, "full", lr, 0.5, dev=0.5)  # without a journal the lower rate
    assert chosen(tmp_path) == {"full": 1e-3, "lora": 2e-3, "dora": 2e-3}
    text, *notes = table(searches(tmp_path))
    assert "0.001: 50.0 (loss 0.6100), **0.002: 50.0 (loss 0.6000)**, 0.004: 50.0 (loss " in text
    assert "0.001: 50.0 (loss 0.6100), **0.002: 50.0 (loss 0.6000)**, 0.004: 40.0 " in text
    assert notes[-1] == "every rate has the same score: rte lora, rte full"
    assert "**0.001: 50.0** (edge), 0.002: 50.0, 0.004: 50.0 " in text  # full's, with no loss known


@pytest.mark.parametrize(("first", "last"), [(0.4, 0.3), (0.3, 0.4)])
def test_the_heldout_loss_is_the_least_that_counts_and_has_the_best_score(
    first: float, last: float, tmp_path: Path
) -> None:
    write_run(tmp_path, "lora", 1e-3, 0.5, dev=0.5)
    (run,) = read_runs(tmp_path)
    # The lower losses: before evaluations count, which is from step 46, and at a worse score.
    seen = ((45, 0.5, 0.1), (46, 0.5, first), (47, 0.4, 0.2), (48, 0.5, last))
    lines = [
        {"step": step, "split": "heldout", "accuracy_heldout": score, "loss_heldout": loss}
        for step, score, loss in seen
    ]
    journal = "".join(json.dumps(line) + "\n" for line in lines)
    (run["folder"] / "metrics.jsonl").write_text(journal)
    assert heldout_loss(run, run["folder"]) == 0.3
    (run["folder"] / "metrics.jsonl").write_text(journal + "{}\n[]\n")  # no run writes such a line
    assert heldout_loss(run, run["folder"]) is None


def test_searches_of_one_task_stand_from_the_shortest_to_the_longest() -> None:
    keys = [Key("m", "rte", "lora", "r8", f"{n} steps", "dir") for n in (1800, 600, 5400)]
    found = in_order(Search(key, (1,), {1e-3: (50.0,)}) for key in keys)
    assert [search.key.length for search in found] == ["600 steps", "1800 steps", "5400 steps"]


def test_searches_on_two_backbones_are_apart(tmp_path: Path) -> None:
    # 0.002 wins on the one, and 0.004, at the edge, on the other.
    for lr, heldout in ((1e-3, 0.5), (2e-3, 0.6), (4e-3, 0.4)):
        write_run(tmp_path, "lora", lr, heldout, dev=0.5)
        write_run(tmp_path, "lora", lr, 1 - heldout, dev=0.5, model="other")
    assert [(s.key.model, s.lr, s.at_edge) for s in searches(tmp_path)] == [
        ("m", 2e-3, False),
        ("other", 4e-3, True),
    ]
    assert "other rte lora" in table(searches(tmp_path))[2]


def test_a_score_that_is_not_defined_loses_and_unequal_effort_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1e-3, 0.5, dev=0.5)
    write_run(tmp_path, "lora", 3e-3, None, dev=0.5)
    write_run(tmp_path, "lora", 2e-3, 0.0, dev=0.5)  # the lowest, and defined
    # One rate for DoRA, three for LoRA.
    write_run(tmp_path, "dora", 1e-3, 0.5, dev=0.5)
    assert chosen(tmp_path)["lora"] == 1e-3
    assert "0.002: 0.0, 0.003: –" in table(searches(tmp_path))[0]
    assert unequal(searches(tmp_path)) == ["rte"]
    assert table(searches(tmp_path))[-1] == "unequal numbers of candidates or seeds in rte"
    # As many rates, but LoRA's with one seed and DoRA's with two.
    for lr, seed in ((2e-3, 1), (3e-3, 1), (1e-3, 2), (2e-3, 2), (3e-3, 2)):
        write_run(tmp_path, "dora", lr, 0.5, dev=0.5, seed=seed)
    assert unequal(searches(tmp_path)) == ["rte"]


def test_what_several_searches_differ_in_has_a_column_and_what_they_share_has_none() -> None:
    few, many = {1e-3: (50.0,)}, {1e-3: (50.0,), 2e-3: (51.0,)}
    first = search_at("m", "rte", "lora", "r8", (1,), many)

    def head(*others: Search) -> str:
        cells = table([first, *others])[0].partition("\n")[0].strip("| ").split("|")
        return " ".join(cell.strip() for cell in cells[:-1])

    full = search_at("m", "rte", "full", None, (1,), few)
    assert head(full) == "task method"
    assert head(search_at("m", "rte", "lora", "r4", (1,), many), full) == "task method budget"
    assert head(search_at("n", "rte", "lora", "r8", (1,), many)) == "model task method"
    other = search_at("m", "rte", "lora", "r8", (1,), many, length="9 steps")
    assert head(other) == "task length method"
    assert head(search_at("m", "rte", "lora", "r8", (1,), many, data="x")) == "task data method"
    # Full fine-tuning had one rate beside LoRA's two; the one of other runs is no part of this.
    assert unequal([first, full]) == ["rte"]
    assert unequal([first, replace(full, key=full.key._replace(length="9 steps"))]) == []


def test_the_figure_holds_every_mean_and_marks_the_chosen_rate(tmp_path: Path) -> None:
    for lr, heldout in ((1e-3, 0.5), (2e-3, 0.6), (4e-3, None)):
        write_run(tmp_path, "lora", lr, heldout, dev=0.5)
    drawn = score_by_rate(searches(tmp_path))
    assert drawn is not None
    _, lines = drawn
    assert [(line["lr"], line["mean"], line["chosen"]) for line in lines] == [
        (1e-3, 50.0, False),
        (2e-3, 60.0, True),
    ]


def test_a_panel_ends_above_scores_that_would_flatten_the_others_and_counts_them() -> None:
    def panel(*scores: float) -> Any:
        rates = {10.0**-i: (score,) for i, score in enumerate(scores)}
        drawn = score_by_rate(
            [Search(Key("m", "rte", "lora", "r8", "600 steps", "dir"), (1,), rates)]
        )
        assert drawn is not None
        assert len(drawn[1]) == len(scores)  # the numbers hold all of them
        (panel,) = drawn[0].axes
        return panel

    # The median is 87, the best one 3 above it: 72 is the lowest that is drawn.
    cut = panel(88.0, 90.0, 87.0, 72.0, 54.6)
    assert 54.6 < cut.get_ylim()[0] < 72
    assert [text.get_text() for text in cut.texts] == ["1 lower"]
    whole = panel(88.0, 90.0, 87.0, 73.0, 72.0)
    assert whole.get_ylim()[0] < 72
    assert not whole.texts


def test_every_search_has_a_panel_also_where_no_method_of_its_task_has_a_budget() -> None:
    def search(task: str, method: str, budget: str | None, length: str = "600 steps") -> Search:
        return Search(Key("m", task, method, budget, length, "dir"), (1,), {1e-3: (50.0,)})

    drawn = score_by_rate(
        [
            search("rte", "lora", "r8"),
            search("rte", "full", None),
            search("rte", "full", None, "1800 steps"),
            search("cola", "cora", None),
            search("cola", "own", None),
        ],
        {"own": "Own method"},
    )
    assert drawn is not None
    figure, lines = drawn
    assert [(p["task"], p["method"]) for p in lines] == [
        ("rte", "lora"),
        ("rte", "full"),
        ("rte", "full"),
        ("cola", "cora"),
        ("cola", "own"),
    ]
    heads = [panel.get_title() for panel in figure.axes]
    assert heads == ["RTE, 600 steps", "RTE, 1800 steps", "CoLA, 600 steps"]
    # Methods have the titles of other figures.
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "LoRA",
        "full fine-tuning",
        "CoRA",
        "Own method",
    ]


def test_a_table_says_how_its_learning_rates_were_searched(tmp_path: Path) -> None:
    effort = {"file": "choices.json", "candidates": 6, "seeds": 2}
    for method, at_edge in (("lora", False), ("dora", True)):
        record_files.write_run(
            tmp_path, method, 1, 0.8, task="rte", tuning={**effort, "at_edge": at_edge}
        )
    # Begun when the search was smaller: 4 candidates, of which this rate was the highest.
    smaller = {**effort, "candidates": 4, "at_edge": True}
    record_files.write_run(tmp_path, "lora", 0, 0.8, task="rte", tuning=smaller)
    record_files.write_run(tmp_path, "adalora", 1, 0.8, task="rte")
    (found,) = tables(read_runs(tmp_path))
    assert (
        "tuned settings: the best of 6 candidates for each method and task, 2 seeds each, on "
        "held-out training rows; 1 of 2 rates at an edge of those tried (RTE DoRA (dynamic rank)); 1 rate is from no "
        "such search (RTE AdaLoRA)"
    ) in score_notes(found, set(), bold=False)


def test_rates_from_a_search_at_another_length_are_said_with_it(tmp_path: Path) -> None:
    search = {"file": "choices.json", "candidates": 3, "seeds": 1, "at_edge": False}
    for method, length in (("lora", {"length": "600 steps"}), ("dora", {})):
        record_files.write_run(tmp_path, method, 1, 0.8, task="rte", tuning={**search, **length})
    (found,) = tables(read_runs(tmp_path))
    (note,) = [n for n in score_notes(found, set(), bold=False) if n.startswith("tuned")]
    assert ", 1 seed each, on held-out" in note
    assert note.endswith(" those tried; tried in runs of another length, 600 steps")


def test_one_evaluation_is_not_called_the_best_of_several(tmp_path: Path) -> None:
    once = {"counted": 1, "from_step": 46}
    record_files.write_run(tmp_path, "lora", 1, 0.8, task="rte", evaluations=once)
    (found,) = tables(read_runs(tmp_path))
    said = "the only development evaluation in the second half of a run"
    assert said in score_notes(found, set(), bold=False)


def test_labels_of_rates_keep_a_distance_and_begin_with_the_lowest() -> None:
    rates = [5e-5, 1e-4, 1.41e-4, 2e-4, 2.5e-4, 4e-4, 5e-4, 7.07e-4, 1e-3, 2e-3, 4e-3, 8e-3]
    # A fifth of a factor of 160 is one of 2.8.
    assert apart(rates, (rates[-1] / rates[0]) ** 0.2) == [5e-5, 1.41e-4, 4e-4, 2e-3, 8e-3]
    assert apart([1e-3], 2) == [1e-3]
    assert [label(rate) for rate in (5e-5, 1.41e-4, 2e-3, 1.0)] == ["5e-5", "1.4e-4", "2e-3", "1e0"]


def test_values_of_a_setting_are_candidates_beside_the_rates(tmp_path: Path) -> None:
    # dem is tried at the best rate alone, so that its default is the value with most rates.
    for lr, heldout in ((1e-3, 0.5), (2e-3, 0.6), (4e-3, 0.4)):
        write_run(tmp_path, "dora", lr, heldout, dev=0.5, dem=0.1)
    # At the best rate of a search that then went on to a better one; it does not count.
    write_run(tmp_path, "dora", 4e-3, 0.9, dev=0.5, dem=0.3)
    write_run(tmp_path, "dora", 2e-3, 0.7, dev=0.5, dem=0.3)
    write_run(tmp_path, "dora", 2e-3, None, dev=0.5, dem=0.5)
    (search,) = searches(tmp_path)
    assert (search.lr, search.setting, search.default) == (2e-3, "dem", 0.1)
    assert (search.value, search.best, search.candidates) == (0.3, 70.0, 5)
    text = table([search])[0]
    assert "0.001: 50.0, **0.002: 60.0**, 0.004: 40.0, **dem 0.3: 70.0**, dem 0.5: –" in text
    drawn = score_by_rate([search])
    assert drawn is not None
    assert [(p["lr"], p["value"], p["mean"]) for p in drawn[1] if p["chosen"]] == [(2e-3, 0.3, 70)]
