"""Runs of several lengths: a table for each, and the figure of score against steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dora.analysis.figures.files import write_by_length
from dora.analysis.figures.lengths import crossing, score_by_length
from dora.analysis.grouping import showable
from dora.analysis.other_runs import holes
from dora.analysis.table import Table
from dora.analysis.view import View
from dora.records import gaps
from dora.records.finished import read_runs
from dora.records.planned import note_planned
from record_files import write_run
from runs import change_record

# Mean of two seeds at each length: LoRA ahead by 8 at 600 steps, DoRA by 4 at 2,400.
SCORES = {"lora": {600: 0.80, 2400: 0.82}, "dora": {600: 0.72, 2400: 0.86}}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for method, by_steps in SCORES.items():
        for steps, score in by_steps.items():
            for seed, more in ((1, 0.01), (2, -0.01)):
                about = {"config": {"max_steps": steps}, "total_steps": steps}
                write_run(tmp_path, method, seed, score + more, key=f"{steps:08d}", **about)
    return tmp_path


def by_length(results: Path) -> list[Table]:
    found, problems = showable(read_runs(results), View(by_length=True))
    assert problems == []
    return found


def test_runs_of_several_lengths_are_a_table_each_and_never_one(results: Path) -> None:
    found, problems = showable(read_runs(results))
    assert found == []
    told = (
        "max_steps 600 | 2400: a table compares one; choose it, as by --where max_steps=600, show "
    )
    told += "each length by --by-length, or move the others away"
    assert len(problems) == 2
    assert all(told in problem for problem in problems)
    assert {table.name: table.values(("dora", "r8"), "sst2") for table in by_length(results)} == {
        "dir-minilm-best-600steps": {1: 73.0, 2: 71.0},
        "dir-minilm-best-2400steps": {1: 87.0, 2: 85.0},
    }


def test_methods_cross_where_their_lines_do_in_the_logarithm_of_the_steps(results: Path) -> None:
    drawn = score_by_length(by_length(results))
    assert drawn is not None
    lines = [p for p in drawn[1] if not p["crosses"]]
    assert {(p["method"], p["steps"]): p["mean"] for p in lines} == {
        (method, steps): pytest.approx(100 * score)
        for method, by_steps in SCORES.items()
        for steps, score in by_steps.items()
    }
    # From -8 to +4: two thirds of the way from 600 to 2,400, which is 600 * 4 ** (2 / 3).
    (crossing,) = (p for p in drawn[1] if p["crosses"])
    assert (crossing["method"], crossing["steps"]) == ("dora", 1512)
    assert crossing["mean"] == pytest.approx(72 + 14 * 2 / 3)


# Points more than the baseline's at 100, 300, 900, ... steps, and where the lines cross.
MEETINGS = {
    "at a length": ([-4, 0, 6], [300]),
    "at the first of several": ([4, 0, 0, -6], [300]),
    "between lengths, and at one": ([-2, 2, 0, -1], [173, 900]),
    "a touch": ([-4, 0, -6], []),
    "a touch but for rounding": ([-4, 1e-13, -6], []),
    "at an end": ([0, 3, 0], []),
}


@pytest.mark.parametrize(("more", "crossings"), MEETINGS.values(), ids=MEETINGS)
def test_lines_that_meet_at_a_length_cross_there_if_they_change_sides(
    more: list[float], crossings: list[int]
) -> None:
    lines = [
        {"score": "RTE acc", "method": method, "steps": 100 * 3**i, "mean": 60 + i + points}
        for i, difference in enumerate(more)
        for method, points in (("lora", 0), ("dora", difference))
    ]
    found = crossing(lines, "RTE acc", "dora", "lora")
    assert [p["steps"] for p in found] == crossings
    means = {100 * 3**i: 60 + i for i in range(len(more))}
    # 173 steps are halfway, on the baseline's line too.
    assert [p["mean"] for p in found] == [pytest.approx(means.get(s, 60.5)) for s in crossings]


def test_one_length_is_no_figure(results: Path, tmp_path: Path) -> None:
    names = write_by_length(by_length(results), tmp_path / "figures")
    assert names == ["dir-minilm-best-score-by-length"]
    endings = {file.suffix for file in (tmp_path / "figures").glob(f"{names[0]}.*")}
    assert endings == {".png", ".pdf", ".svg", ".csv"}
    longest = [table for table in by_length(results) if table.steps == 2400]
    assert write_by_length(longest, tmp_path / "figures") == []


def test_a_task_of_some_lengths_has_its_panel_and_the_average_is_always_of_the_same_tasks(
    tmp_path: Path,
) -> None:
    # SST-2 and RTE at 600 and 1,800 steps, RTE alone at 5,400, MRPC at one length.
    scores = {"sst2": {600: 0.8, 1800: 0.9}, "rte": {600: 0.6, 1800: 0.64, 5400: 0.7}}
    scores["mrpc"] = {5400: 0.5}
    for task, by_steps in scores.items():
        for steps, score in by_steps.items():
            about = {"config": {"max_steps": steps}, "total_steps": steps}
            for method in ("lora", *(["zeta"] if steps < 5400 else [])):
                folder = write_run(
                    tmp_path, method, 1, score, task=task, key=f"{steps:08d}", **about
                )
                if method == "zeta":
                    said = {"title": "Zeta!", "paper": None, "budget": "exact", "result": "weights"}
                    change_record(folder, method=said)
    found = by_length(tmp_path)
    drawn = score_by_length(found)
    assert drawn is not None
    assert [panel.get_title() for panel in drawn[0].axes] == ["SST-2 acc", "RTE acc"]
    loras = [p for p in drawn[1] if p["method"] == "lora"]
    assert {(p["score"], p["steps"]): p["mean"] for p in loras} == {
        (score, steps): pytest.approx(mean)
        for score, by_steps in {
            "SST-2 acc": {600: 80, 1800: 90},
            "RTE acc": {600: 60, 1800: 64, 5400: 70},
        }.items()
        for steps, mean in by_steps.items()
    }
    # A title stands in the records of the lengths that have the method.
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["LoRA", "Zeta!"]
    # Without MRPC both shorter lengths have every task.
    chosen = View(by_length=True, tasks=("sst2", "rte"))
    drawn = score_by_length(showable(read_runs(tmp_path), chosen)[0])
    assert drawn is not None
    averages = [p for p in drawn[1] if (p["method"], p["score"]) == ("lora", "average")]
    assert {p["steps"]: p["mean"] for p in averages} == {
        600: pytest.approx(70),
        1800: pytest.approx(77),
    }


def test_holes_are_those_of_a_length_and_their_commands_have_it(tmp_path: Path) -> None:
    # At 600 steps DoRA's seed 2 is to come; at 1,800 LoRA lacks that seed, and DoRA has stopped.
    done = {600: [("lora", 1), ("lora", 2), ("dora", 1)], 1800: [("lora", 1), ("dora", 2)]}
    stopped = {1800: [("dora", 1)], 600: []}
    for steps, runs in done.items():
        for method, seed in [*runs, *stopped[steps]]:
            words = [f"method={method}", f"max_steps={steps}", f"seed={seed}"]
            about = {"config": {"max_steps": steps}, "total_steps": steps, "words": words}
            status = "done" if (method, seed) in runs else "stopped"
            write_run(tmp_path, method, seed, 0.8, key=f"{steps:08d}", status=status, **about)
    # A sweep has noted a run, whose record is a configuration alone.
    folder = write_run(tmp_path, "adalora", 1, 0.8, key="00000600")
    config = json.loads((folder / "run.json").read_text())["config"]
    (folder / "run.json").unlink()
    words = ["method=adalora", "max_steps=600", "seed=1"]
    note_planned(folder, words, {**config, "max_steps": 600})
    seen = gaps.scan(tmp_path)
    begin = "python -m dora.run"
    assert {table.steps: sorted(holes(table, seen)) for table in by_length(tmp_path)} == {
        600: [
            f"{begin} method=adalora max_steps=600 seed=1",
            f"{begin} method=adalora max_steps=600 task=sst2 seed=2",
            f"{begin} method=dora max_steps=600 task=sst2 seed=2",
        ],
        1800: [
            f"{begin} method=dora max_steps=1800 seed=1",
            f"{begin} method=lora max_steps=1800 task=sst2 seed=2",
        ],
    }
