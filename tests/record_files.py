"""Run records as runs leave them, made up: for the tests of what reads them.

python tests/record_files.py FOLDER [NUMBER]    writes about NUMBER (1,000) records of RoBERTa-base with their journals
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
from dora.backbones.architectures import LINEARS
from dora.data.tasks import TASKS


def names(layers: int) -> list[str]:
    """Full module names of all linears of a RoBERTa."""
    return [
        f"roberta.encoder.layer.{i}.{path}"
        for i in range(layers)
        for path in LINEARS["roberta"].values()
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
    """A run's directory. `score`: of the task's first metric, best and last; `metrics`: others.

    `budget` as it is typed: the directory is named as a run names it, `300000` for `0.3M`. `labels`, `predicted` (n,): class ids for predictions.npz. `changes`: other keys of run.json; config and fingerprints have what every record has beside.
    """
    budget = budget if budget == "none" else str(Budget.parse(budget))
    path = into / "runs" / data / task / model / method / budget / key / f"s{seed}"
    path.mkdir(parents=True)
    first = {} if score is None else {TASKS[task].metrics[0]: score}
    result = {**first, **(metrics or {}), "degenerate": None}
    named = {
        "task": task,
        "method": {"name": method},
        "model": model,
        "data": data,
        "budget": budget,
        "seed": seed,
    }
    marks = {"data": "d" * 64, "model": "e" * 64, "init_from": None}
    whole = {"lr": 0.001, "target": None if method == "full" else ["q", "v"]}
    more = {
        "batch_size": 16,
        "max_length": 128,
        "head_dropout": None,
        "select": "dev",
        "precision": "fp32",
    }
    changes["config"] = {**more, **named, **whole, **changes.get("config", {})}
    changes["fingerprints"] = {**marks, **changes.get("fingerprints", {})}
    run = {
        "schema": 1,
        "status": "done",
        "reason": None,
        "seed": seed,
        "embedded": None,
        "note": None,
        "words": [
            f"task={task}",
            f"method={method}",
            f"budget={budget}",
            f"seed={seed}",
            f"model={model}",
        ],
        "command": f"python -m dora.run task={task}",
        "host": "node",
        "versions": {"dora-glue": "0"},
        "data": {"revision": None, "rows": {"train": 9, "dev": 4}, "train": 9},
        "model": {"hub": None, "revision": None, "path": None, "random_weights": False},
        "git": {"commit": "0" * 40, "dirty": False},
        "device": "cpu",
        "total_steps": 90,
        "times": {"updated": "2026-01-01T00:00:00+00:00"},
        "params": {
            "trainable": 1000,
            "head": 100,
            "budget": budget,
            "adapter_start": params,
            "adapter_end": 0 if method == "full" else params,
        },
        "ranks": {"start": dict.fromkeys(ranks or {}, start), "end": ranks or {}},
        "evaluations": {"counted": 3, "from_step": 46},
        "train_s": 10.0 * seed,
        "peak_memory_bytes": 2**20 * 7,
        "results": {"best": {"step": 5, **result}, "last": {"step": 9, **result}},
        **changes,
    }
    (path / "run.json").write_text(json.dumps(run))
    if labels is not None and predicted is not None:
        logits = np.eye(2)[predicted]
        np.savez(
            path / "predictions.npz",
            **{"dev/labels": labels, "best/dev/logits": logits, "last/dev/logits": logits},
        )
    return path


def large_study(results: Path, number: int = 1000) -> int:
    """About `number` records of RoBERTa-base on eight tasks, 72 matrices each, with journals; how many they are."""
    chance = random.Random(1)
    modules = names(12)
    tasks = [t for t in TASKS if t != "wnli"]
    seeds = max(2, round(number / (len(tasks) * (1 + 3 * 4))))
    start = dict.fromkeys(modules, 12)
    sizes = {"r2": 331_776, "r4": 663_552, "r8": 1_327_104, "0.3M": 299_520}
    written = 0
    for method, budget in [
        ("full", "none"),
        *product(("lora", "adalora", "dora"), ("r2", "r4", "r8", "0.3M")),
    ]:
        for task, seed in product(tasks, range(1, seeds + 1)):
            end = {
                n: chance.randint(0, 12) if method in ("adalora", "dora") else 8 for n in modules
            }
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
                start=12 if method in ("adalora", "dora") else 8,
                params=sizes.get(budget, 0),
            )
            with (path / "metrics.jsonl").open("w") as file:
                for step in range(10, 1001, 10):
                    file.write(
                        json.dumps(
                            {"step": step, "epoch": step / 100, "split": "train", "loss": 0.5}
                        )
                        + "\n"
                    )
                for step in range(100, 1001, 100):
                    file.write(
                        json.dumps(
                            {"step": step, "split": "dev", TASKS[task].metrics[0]: chance.random()}
                        )
                        + "\n"
                    )
            if method in ("adalora", "dora"):
                with (path / "ranks.jsonl").open("w") as file:
                    for step in range(150, 501, 12):
                        file.write(json.dumps({"step": step, "total": 864, "ranks": start}) + "\n")
            written += 1
    return written


if __name__ == "__main__":
    print(large_study(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000))
