"""Finished runs as rows of a CSV: everything that a record says in numbers and short texts."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from dora.analysis.finished import read_runs
from dora.analysis.grouping import tables
from dora.analysis.tables.files import files
from dora.analysis.tables.per_run import as_row
from record_files import write_run


def test_a_row_holds_place_scores_settings_and_origin(tmp_path: Path) -> None:
    path = write_run(tmp_path, "lora", 3, 0.8125, task="rte", budget="9000", params=8999)
    record = json.loads((path / "run.json").read_text())
    record["config"]["target"] = ["q", "v"]
    (path / "run.json").write_text(json.dumps({**record, "train_s": 12.5}))
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
        "commit": "0" * 40,
        "dirty": False,
    }
    assert {key: row[key] for key in expected} == expected


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
