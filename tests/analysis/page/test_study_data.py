"""The data of the page: order, names, curves and whole records, found again from the pools."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dora.analysis.grouping import tables
from dora.analysis.page.study_data import Pool, leaves, ordered, quantiles, study_data, thinned
from dora.analysis.stats import ROUNDING
from dora.records import packed
from dora.records.finished import read_runs
from record_files import names, write_run


def data_of(results: Path) -> dict[str, Any]:
    # By way of JSON, as the page has it.
    return dict(json.loads(json.dumps(study_data(tables(read_runs(results))), allow_nan=False)))


def test_runs_stand_by_task_model_method_budget_and_seed_wherever_they_lie(tmp_path: Path) -> None:
    wanted = []
    for task in ("sst2", "mrpc"):  # in GLUE's order, not in the alphabet's
        for model in ("minilm", "roberta_base"):
            for budget in ("r2", "r8", "r16", "9000", "13824", "0.3M"):  # not in the order of texts
                for seed in (1, 2, 10):
                    wanted.append((task, model, budget, seed))
    folders = [
        write_run(tmp_path, "lora", seed, 0.8, task=task, model=model, budget=budget)
        for task, model, budget, seed in reversed(wanted)
    ]
    # Every second one lies in a packed file.
    packed.write(tmp_path / packed.NAME, folders[::2])
    for folder in folders[::2]:
        shutil.rmtree(folder)
    runs = data_of(tmp_path)["runs"]
    found = [(r["task"], r["model"], r["budgetTitle"], r["seed"]) for r in runs]
    titles = {"9000": "9k", "13824": "13.8k"}
    assert found == [(t, m, titles.get(b, b), s) for t, m, b, s in wanted]


def test_runs_have_the_names_of_commands_and_those_of_papers(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 3, 0.6, task="stsb", model="roberta_base", budget="0.3M")
    (run,) = data_of(tmp_path)["runs"]
    pairs = [(run[key], run[f"{key}Title"]) for key in ("task", "model", "method", "budget")]
    assert pairs == [
        ("stsb", "STS-B"),
        ("roberta_base", "RoBERTa-base"),
        ("lora", "LoRA"),
        ("300000", "0.3M"),
    ]
    assert (run["seed"], run["score"], run["metric"]) == (3, 60.0, "STS-B Pearson")


def test_a_record_is_found_again_from_the_pools(tmp_path: Path) -> None:
    for seed in (1, 2):
        config = {"lr": seed / 100, "warmup": 1 if seed == 1 else 1.0, "clip": None}
        write_run(tmp_path, "lora", seed, 0.8, config=config)
    found = data_of(tmp_path)
    for run, stored in zip(found["runs"], sorted(tmp_path.rglob("run.json")), strict=True):
        record: dict[str, Any] = {}
        for path, pool, place in zip(found["fields"], found["pools"], run["record"], strict=True):
            if place is not None:
                inside = record
                for key in path[:-1]:
                    inside = inside.setdefault(key, {})
                inside[path[-1]] = pool[place]
        known = json.loads(stored.read_text())
        assert record["config"] == known["config"]
        assert record["results"] == known["results"]
        # Equal numbers of other types are told apart.
        assert type(record["config"]["warmup"]) is type(known["config"]["warmup"])


def test_equal_values_are_kept_once() -> None:
    pool = Pool()
    places = [pool.place(value) for value in ([1], 1, 1.0, True, [1], "1", None, 1)]
    assert places == [0, 1, 2, 3, 0, 4, 5, 1]
    assert pool.values == [[1], 1, 1.0, True, "1", None]


def test_leaves_of_a_record_are_all_that_is_no_object() -> None:
    value = {"a": {"b.c": 1, "d": {}}, "e": [{"f": 2}], "g": None, "h\u202e": "\u202e"}
    assert list(leaves(value)) == [
        (("a", "b.c"), 1),
        (("a", "d"), {}),
        (("e",), [{"f": 2}]),
        (("g",), None),
        (("h\\u202e",), "\\u202e"),
    ]


def test_curves_and_ranks_are_those_of_the_journals(tmp_path: Path) -> None:
    modules = names(1)
    end = dict(zip(modules, (3, 2, 1, 0, 4, 2), strict=True))
    folder = write_run(tmp_path, "dora", 1, 0.8, ranks=end)
    lines = [{"step": 10, "split": "train", "loss": 0.123456}]
    lines += [{"step": s, "split": "dev", "accuracy": s / 100} for s in (10, 20)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "ranks.jsonl").write_text(json.dumps({"step": 30, "total": 12, "ranks": end}) + "\n")
    found = data_of(tmp_path)
    (run,) = found["runs"]
    curves = {
        name: list(zip(found["steps"][steps], values, strict=True))
        for name, (steps, values) in run["curves"].items()
    }
    assert curves == {
        "score": [(10, 10), (20, 20)],
        "loss": [(10, 0.1235)],
        # 4 of each of six matrices at the start, and the last number up to the last step.
        "live": [(0, 24), (30, 12), (90, 12)],
    }
    matrices, start, last = run["ranks"]
    kinds = [[0, kind] for kind in ("q", "k", "v", "o", "ffn1", "ffn2")]
    assert (found["matrices"][matrices], start, last) == (kinds, [4] * 6, [3, 2, 1, 0, 4, 2])


def test_long_curves_are_thinned_and_keep_their_last_point() -> None:
    curve = [(step, float(step)) for step in range(1, 1001)]
    short = thinned(curve)
    assert 30 <= len(short) <= 60
    assert short[-1] == (1000, 1000.0)
    assert {b[0] - a[0] for a, b in itertools.pairwise(short)} == {17}
    assert thinned(curve[:60]) == curve[:60]


def test_quantiles_are_those_of_two_sided_intervals_by_the_reciprocal_of_df() -> None:
    found = quantiles()
    # The normal distribution's, and of 10, 4, 2 and 1 degrees of freedom, as tables print them.
    printed = {0: 1.960, 10: 2.228, 25: 2.776, 50: 4.303, 100: 12.706}
    assert {i: round(found[i], 3) for i in printed} == printed
    assert len(found) == 101


def test_equal_differences_of_scores_are_equal_in_the_pages_data(tmp_path: Path) -> None:
    for seed, right in ((1, 140), (2, 151), (3, 149)):  # of RTE's 277 examples
        write_run(tmp_path, "lora", seed, right / 277, task="rte")
        write_run(tmp_path, "dora", seed, (right + 5) / 277, task="rte")
    data = data_of(tmp_path)
    assert data["rounding"] == ROUNDING
    scores = {(run["method"], run["seed"]): run["score"] for run in data["runs"]}
    found = [scores["dora", seed] - scores["lora", seed] for seed in (1, 2, 3)]
    assert found == pytest.approx([500 / 277] * 3, abs=1e-11)
    assert max(found) - min(found) < data["rounding"]


def test_matrices_that_are_no_linears_have_no_heat_map(tmp_path: Path) -> None:
    write_run(tmp_path, "houlsby", 1, 0.8, ranks={"roberta.encoder.layer.0.output.adapter": 3})
    (run,) = data_of(tmp_path)["runs"]
    assert run["ranks"] is None


def test_each_run_belongs_to_the_table_of_its_data_and_model(tmp_path: Path) -> None:
    for model in ("minilm", "roberta_base"):
        for data in ("dir", "hub"):
            write_run(tmp_path, "lora", 1, 0.8, model=model, data=data)
    found = tables(read_runs(tmp_path))
    data = data_of(tmp_path)
    assert len(data["groups"]) == 4
    for run in data["runs"]:
        group = data["groups"][run["group"]]
        assert (group["data"], group["model"]) == (run["data"], run["model"])
    assert len(ordered(found)) == 4
