"""Learning rates are chosen by held-out scores alone, with the same effort for every method."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import record_files

SCRIPT = Path(__file__).parents[2] / "scripts" / "rates.py"


def write_run(
    folder: Path,
    method: str,
    lr: float,
    heldout: float | None,
    dev: float,
    seed: int = 1,
    model: str = "m",
) -> None:
    """Writes a run's record; `heldout`: its score on the held-out part, None if undefined."""
    best = {"step": 400, "accuracy": dev}
    if heldout is not None:
        best["accuracy_heldout"] = heldout
    config = {"task": "rte", "method": {"name": method}, "lr": lr, "select": "heldout"}
    results = {which: {**best, "degenerate": None} for which in ("best", "last")}
    more = {"config": config, "results": results}
    # The rate stands for the hash that a configuration would have in a real directory's name.
    record_files.write_run(folder, method, seed, dev, task="rte", key=f"{lr}", model=model, **more)


def chosen(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the script on a folder of runs."""
    words = [sys.executable, SCRIPT, folder]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_the_rate_with_the_best_heldout_mean_wins_whatever_the_development_set_says(
    tmp_path: Path,
) -> None:
    # The development set would choose 0.001 for both, with 0.9 against 0.1.
    for method in ("lora", "dora"):
        write_run(tmp_path, method, 1e-3, 0.60, dev=0.9)
        write_run(tmp_path, method, 1e-3, 0.62, dev=0.9, seed=2)
        write_run(tmp_path, method, 3e-3, 0.65 if method == "lora" else 0.5, dev=0.1)
        write_run(tmp_path, method, 3e-3, 0.61 if method == "lora" else 0.7, dev=0.1, seed=2)
    done = chosen(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rte: {dora: 0.001, lora: 0.003}" in done.stdout  # as a study's YAML takes it
    assert "| rte | lora | 0.001: 61.0, **0.003: 63.0** (edge) |" in done.stdout


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
    text = chosen(tmp_path).stdout
    assert "| rte | lora | 0.001: 50.0, **0.002: 60.0**, 0.004: 50.0 |" in text
    assert "| rte | dora | **0.001: 70.0** (edge), 0.002: 60.0, 0.004: 50.0 |" in text
    assert "| rte | adalora | 0.001: 40.0, 0.002: 50.0, **0.004: 60.0** (edge) |" in text
    edges = "rte adalora, rte dora, rte full"
    assert f"3 of 4 searches chose a rate at an edge of their grid: {edges}\n" in text


def test_searches_on_two_backbones_are_apart(tmp_path: Path) -> None:
    # 0.002 wins on the one, and 0.004, at the edge, on the other.
    for lr, heldout in ((1e-3, 0.5), (2e-3, 0.6), (4e-3, 0.4)):
        write_run(tmp_path, "lora", lr, heldout, dev=0.5)
        write_run(tmp_path, "lora", lr, 1 - heldout, dev=0.5, model="other")
    done = chosen(tmp_path)
    assert done.returncode == 0
    assert "1 of 2 searches chose a rate at an edge of their grid: other rte lora\n" in done.stdout
    assert (
        "rates:  # m\n  rte: {lora: 0.002}\n\nrates:  # other\n  rte: {lora: 0.004}" in done.stdout
    )


def test_a_score_that_is_not_defined_loses_and_unequal_effort_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1e-3, 0.5, dev=0.5)
    write_run(tmp_path, "lora", 3e-3, None, dev=0.5)
    # One rate for DoRA, two for LoRA.
    write_run(tmp_path, "dora", 1e-3, 0.5, dev=0.5)
    done = chosen(tmp_path)
    assert done.returncode == 1
    assert "lora: 0.001" in done.stdout
    assert "unequal effort in rte" in done.stderr
    assert chosen(tmp_path / "nothing").returncode == 1
