"""Choosing learning rates from a search: held-out scores alone, the same effort for every method."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "rates.py"


def write_run(folder: Path, method: str, lr: float, heldout: float | None, dev: float, seed: int = 1) -> None:
    path = folder / "runs" / "dir" / "rte" / "m" / method / "r8" / f"{lr}" / f"s{seed}"
    path.mkdir(parents=True)
    best = {"step": 400, "accuracy": dev, **({} if heldout is None else {"accuracy_heldout": heldout})}
    config = {"task": "rte", "method": {"name": method}, "lr": lr, "select": "heldout"}
    (path / "run.json").write_text(
        json.dumps({"status": "done", "config": config, "results": {"best": best}})
    )


def chosen(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=False)


def test_the_rate_with_the_best_heldout_mean_wins_whatever_the_development_set_says(tmp_path: Path) -> None:
    for method in ("lora", "dora"):
        write_run(tmp_path, method, 1e-3, 0.60, dev=0.9)
        write_run(tmp_path, method, 1e-3, 0.62, dev=0.9, seed=2)
        write_run(tmp_path, method, 3e-3, 0.65 if method == "lora" else 0.5, dev=0.1)
        write_run(tmp_path, method, 3e-3, 0.61 if method == "lora" else 0.7, dev=0.1, seed=2)
    done = chosen(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rte: {dora: 0.001, lora: 0.003}" in done.stdout
    assert "| rte | lora | 0.001: 61.0, **0.003: 63.0** |" in done.stdout


def test_a_score_that_is_not_defined_loses_and_unequal_effort_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1e-3, 0.5, dev=0.5)
    write_run(tmp_path, "lora", 3e-3, None, dev=0.5)
    write_run(tmp_path, "dora", 1e-3, 0.5, dev=0.5)
    done = chosen(tmp_path)
    assert done.returncode == 1
    assert "lora: 0.001" in done.stdout
    assert "unequal effort in rte" in done.stderr
    assert chosen(tmp_path / "nothing").returncode == 1
