"""Made-up run records, as runs leave them, for the tests of everything that reads records.

python tests/record_files.py FOLDER [NUMBER]
    writes about NUMBER (1,000) records of RoBERTa-base with their journals, to time the readers
"""

from __future__ import annotations

import json
import random
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from dora.adapters.budget import Budget
from dora.backbones.architectures import ARCHITECTURES
from dora.data.tasks import TASKS
from dora.records.identity import key_of

# Settings that the reader asks for in every record of a finished run; no test depends on them.
_SETTINGS = {
    "batch_size": 16,
    "max_length": 128,
    "head_dropout": None,
    "select": "dev",
    "precision": "fp32",
    "lr": 0.001,
}
# One data set and one model for all runs, or tables would refuse to compare them.
_FINGERPRINTS = {"data": "d" * 64, "model": "e" * 64, "init_from": None}
# The rest of a finished run's record, alike for every run.
_PROVENANCE: dict[str, Any] = {
    "schema": 1,
    "status": "done",
    "reason": None,
    "embedded": None,
    "note": None,
    "host": "node",
    "versions": {"dora-glue": "0"},
    "model": {"hub": None, "revision": None, "path": None, "random_weights": False},
    # A dirty tree is marked in tables, so these are of a clean one.
    "git": {"commit": "0" * 40, "dirty": False},
    "device": "cpu",
    "total_steps": 90,
    "times": {"updated": "2026-01-01T00:00:00+00:00"},
    "evaluations": {"counted": 3, "from_step": 46},
    "peak_memory_bytes": 2**20 * 7,
}


def names(layers: int) -> list[str]:
    """Returns the full module names of all linears of a RoBERTa."""
    return [
        f"roberta.encoder.layer.{i}.{path}"
        for i in range(layers)
        for path in ARCHITECTURES["roberta"].linears.values()
    ]


def write_run(
    into: Path,
    method: str,
    seed: int,
    score: float | None,
    task: str = "sst2",
    budget: str = "r8",
    key: str = "abcd1234",
    model: str = "minilm",
    data: str = "dir",
    metrics: dict[str, float] | None = None,
    ranks: dict[str, int] | None = None,
    labels: np.ndarray | None = None,
    predicted: np.ndarray | None = None,
    start: int = 4,
    params: int = 900,
    **changes: Any,
) -> Path:
    """Writes the directory of a finished run under `into`/runs and returns its path.

    `score`: best and last value of the task's first metric; `metrics`: of its others. `budget` as
    it is typed: the directory is named as a run names it, `300000` for `0.3M`. `key`: the folder of
    a record without an `arithmetic`, which does not tell its own. `ranks`: live
    components by matrix at the end, `start` of each at the beginning. `labels`, `predicted` (n,):
    class ids for predictions.npz. `changes`: other keys of run.json; those of config and
    fingerprints are added to the keys that every record has.
    """
    budget = budget if budget == "none" else str(Budget.parse(budget))
    first = {} if score is None else {TASKS[task].metrics[0]: score}
    result = {**first, **(metrics or {}), "degenerate": None}
    named = {
        "task": task,
        "method": {"name": method},
        "model": model,
        "data": data,
        "budget": None if budget == "none" else budget,
        "seed": seed,
    }
    sizes = TASKS[task].sizes
    target = None if method == "full" else ["q", "v"]
    changes["config"] = {**_SETTINGS, "target": target, **named, **changes.get("config", {})}
    changes["fingerprints"] = {**_FINGERPRINTS, **changes.get("fingerprints", {})}
    words = [f"{name}={named[name]}" for name in ("task", "budget", "seed", "model")]
    run = {
        **_PROVENANCE,
        "seed": seed,
        "words": [words[0], f"method={method}", *words[1:]],
        "command": f"python -m dora.run task={task}",
        "params": _parameters(method, budget, params),
        "data": {
            "revision": None,
            "rows": sizes,
            "train": sizes["train"],
        },
        "ranks": {"start": dict.fromkeys(ranks or {}, start), "end": ranks or {}},
        # Unlike for each seed, so that a table that mixes two runs up shows it.
        "train_s": 10.0 * seed,
        "results": {"best": {"step": 5, **result}, "last": {"step": 90, **result}},
        **changes,
    }
    path = into / "runs" / data / task / model / method / budget / (key_of(run) or key) / f"s{seed}"
    path.mkdir(parents=True)
    # Unsealed, as the oldest records are: tests can then change it with a text editor's means.
    (path / "run.json").write_text(json.dumps(run))
    if labels is not None and predicted is not None:
        _write_predictions(path, labels, predicted)
    return path


def federation_entry(**changes: Any) -> dict[str, Any]:
    """Returns what a record says of a federation of one client, its counts 1 but for `changes`."""
    counts = ["rounds", "selected", "local_steps", "sequential_steps", "bytes_in_all"]
    counts += ["values_up_a_round", "values_down_a_round", "values_down_once", "values_in_all"]
    clients = [{"rows": 40, "classes": {"0": 40}}]
    return {"clients": clients, **dict.fromkeys(counts, 1), **changes}


def _parameters(method: str, budget: str, stored: int) -> dict[str, Any]:
    # Full fine-tuning has no adapter in the end, whatever it began with.
    end = 0 if method == "full" else stored
    counted = {"trainable": stored + 100, "head": 100, "budget": budget}
    return {**counted, "adapter_start": stored, "adapter_end": end}


def _write_predictions(folder: Path, labels: np.ndarray, predicted: np.ndarray) -> None:
    # Logits whose largest value is the class that is to be predicted.
    logits = np.eye(2)[predicted]
    np.savez(
        folder / "predictions.npz",
        **{"dev/labels": labels, "best/dev/logits": logits, "last/dev/logits": logits},
    )


def large_study(results: Path, number: int = 1000) -> int:
    """Writes about `number` records of RoBERTa-base with journals; returns how many they are.

    Eight tasks, 13 rows (full fine-tuning, and three methods at four budgets), 72 matrices each.
    """
    # Seeded: timings before and after a change must read the same bytes.
    chance = random.Random(1)
    modules = names(12)  # 72 matrices
    tasks = [t for t in TASKS if t != "wnli"]
    seeds = max(2, round(number / (len(tasks) * (1 + 3 * 4))))
    # Parameters of rank-1 components of 72 matrices: r8 is 1,327,104.
    sizes = {"r2": 331_776, "r4": 663_552, "r8": 1_327_104, "0.3M": 299_520}
    rows = [("full", "none"), *product(("lora", "adalora", "dora"), ("r2", "r4", "r8", "0.3M"))]
    written = 0
    for (method, budget), task, seed in product(rows, tasks, range(1, seeds + 1)):
        # Dynamic methods start above the budget and end with a rank of its own for each matrix.
        dynamic = method in ("adalora", "dora")
        end = {name: chance.randint(0, 12) if dynamic else 8 for name in modules}
        others = {m: chance.uniform(0.8, 0.9) for m in TASKS[task].metrics[1:]}
        path = write_run(
            results,
            method,
            seed,
            chance.uniform(0.8, 0.9),
            task,
            budget,
            model="roberta_base",
            metrics=others,
            ranks={} if method == "full" else end,
            start=12 if dynamic else 8,
            params=sizes.get(budget, 0),
        )
        _write_metrics(path, TASKS[task].metrics[0], chance)
        if dynamic:
            _write_ranks(path, dict.fromkeys(modules, 12))
        written += 1
    return written


def _write_metrics(folder: Path, metric: str, chance: random.Random) -> None:
    """Writes 100 lines of training and 10 evaluations, as a run of 1,000 steps logs them."""
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(10, 1001, 10):
            event = {"step": step, "epoch": step / 100, "split": "train", "loss": 0.5}
            file.write(json.dumps(event) + "\n")
        for step in range(100, 1001, 100):
            scored = {"step": step, "split": "dev", metric: chance.random()}
            file.write(json.dumps(scored) + "\n")


def _write_ranks(folder: Path, ranks: dict[str, int]) -> None:
    """Writes 30 allocations, each with the rank of every matrix: the longest lines of a run."""
    with (folder / "ranks.jsonl").open("w") as file:
        for step in range(150, 501, 12):
            file.write(json.dumps({"step": step, "total": 864, "ranks": ranks}) + "\n")


if __name__ == "__main__":
    print(large_study(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000))


def write_budgets_that_look_alike(results: Path) -> None:
    """Writes LoRA at two budgets that tables show as 0.332M, and DoRA, 5 points ahead, at one."""
    for method, budget, score in (
        ("lora", "331776", 0.9),
        ("lora", "332000", 0.8),
        ("dora", "332000", 0.85),
    ):
        for seed in (1, 2, 3):
            write_run(results, method, seed, score + seed / 100, budget=budget)
