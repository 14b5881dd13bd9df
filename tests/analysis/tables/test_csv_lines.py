"""Finished runs as rows of a CSV: everything that a record says in numbers and short texts."""

from __future__ import annotations

import csv
import io
import json
from itertools import product
from pathlib import Path

from dora.analysis.grouping import tables
from dora.analysis.tables.csv_lines import as_row, difference_lines
from dora.analysis.tables.files import files
from dora.analysis.view import View
from dora.records.finished import read_runs
from record_files import federation_entry, write_run


def test_a_row_holds_place_scores_settings_and_origin(tmp_path: Path) -> None:
    path = write_run(tmp_path, "lora", 3, 0.8125, task="rte", budget="9000", params=8999)
    record = json.loads((path / "run.json").read_text())
    record["config"]["target"] = ["q", "v"]
    searched = {"candidates": 4, "seeds": 2, "at_edge": True}
    (path / "run.json").write_text(json.dumps({**record, "train_s": 12.5, "tuning": searched}))
    (run,) = read_runs(tmp_path)
    row = as_row(run)
    expected = {
        "task": "rte",
        "method": "lora",
        "budget": "9000",
        "seed": 3,
        "best.accuracy": 0.8125,
        "params.adapter_end": 8999,
        "config.method.name": "lora",
        "config.target": "q,v",
        "config.lr": 0.001,
        "train_s": 12.5,
        "tuning.candidates": 4,
        "tuning.at_edge": True,
        "commit": "0" * 40,
        "dirty": False,
    }
    assert {key: row[key] for key in expected} == expected


def test_a_difference_names_its_baseline_and_the_least_number_of_pairs(tmp_path: Path) -> None:
    for task, seeds in (("sst2", (1, 2, 3)), ("rte", (1, 2))):
        for method, seed in product(("lora", "dora"), seeds):
            write_run(tmp_path, method, seed, 0.8 + seed * len(method) / 100, task=task)
    (table,) = tables(read_runs(tmp_path), View(baseline="dora"))
    shown = [
        tuple(line[k] for k in ("against", "task", "seeds")) for line in difference_lines(table)
    ]
    assert shown == [("dora", "average", 2), ("dora", "sst2", 3), ("dora", "rte", 2)]


def test_a_row_of_a_federated_run_holds_its_depth_and_examples(tmp_path: Path) -> None:
    entry = federation_entry(rounds=8, sequential_steps=80, examples=7_443)
    write_run(tmp_path, "fedit", 1, 0.8, federation=entry)
    write_run(tmp_path, "lora", 1, 0.8)
    federated, plain = map(as_row, sorted(read_runs(tmp_path), key=lambda run: str(run["folder"])))
    expected = {"rounds": 8, "sequential_steps": 80, "examples": 7_443}
    assert {key: federated[f"federation.{key}"] for key in expected} == expected
    assert "federation.clients" not in federated
    # Nor has a run without a federation or a search a column for either.
    assert not any(key.startswith(("federation", "tuning")) for key in plain)


def test_origin_is_that_of_every_start_of_a_run(tmp_path: Path) -> None:
    def start(device: str, commit: str, dirty: bool) -> dict[str, object]:
        git = {"commit": commit * 40, "dirty": dirty}
        first = {"step": 0, "time": "2026-01-01T00:00:00+00:00", "host": "node", "world_size": 1}
        return {**first, "device": device, "git": git}

    # Begun with uncommitted changes on a GPU; the record's own `git` and `device` are the last's.
    whole = [start("H200", "a", True), start("cpu", "b", False), start("cpu", "b", False)]
    write_run(tmp_path, "lora", 1, 0.8, starts=whole, git={"commit": "b" * 40, "dirty": False})
    (run,) = read_runs(tmp_path)
    row = as_row(run)
    assert (row["dirty"], row["commit"]) == (True, f"{'a' * 40},{'b' * 40}")
    # Starts that agree have the one value, a number among them.
    assert (row["device"], row["host"], row["world_size"]) == ("H200,cpu", "node", 1)


def test_the_file_has_a_row_a_run_with_every_digit(tmp_path: Path) -> None:
    for method, seed in (("lora", 2), ("lora", 1), ("dora", 1)):
        path = write_run(tmp_path, method, seed, 1 / 3) / "run.json"
        record = json.loads(path.read_text())
        record["config"]["lr"] = 2.5e-7
        path.write_text(json.dumps(record))
    (table,) = tables(read_runs(tmp_path))
    made = files(table, tmp_path, [])
    rows = list(csv.DictReader(io.StringIO(made[f"{table.name}-runs.csv"])))
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("dora", "1"),
        ("lora", "1"),
        ("lora", "2"),
    ]
    assert {float(row["config.lr"]) for row in rows} == {2.5e-7}
    assert {float(row["best.accuracy"]) for row in rows} == {1 / 3}
    # Of one task there is no average beside its cells.
    cells = csv.DictReader(io.StringIO(made[f"{table.name}.csv"]))
    assert [(cell["method"], cell["task"], cell["n"]) for cell in cells] == [
        ("lora", "sst2", "2"),
        ("dora", "sst2", "1"),
    ]
