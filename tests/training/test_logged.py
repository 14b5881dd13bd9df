"""A run logs losses, gradient norm and live components as other sources have them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss, mean_squared_error

from dora.training.step import Stepper
from runs import arrays, lines, only_run, run, small


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities (n, classes), in 64 bits."""
    powers = np.exp(logits.astype(float))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("task", "losses"), [("mnli", ["loss", "loss_mm"]), ("stsb", ["loss"])])
def test_the_development_loss_is_that_of_the_stored_predictions(
    task: str, losses: list[str], tmp_path: Path
) -> None:
    record = run(small(tmp_path, f"task={task}", "method=lora", "max_steps=4"))
    folder = only_run(tmp_path)
    saved = arrays(folder)
    line = lines(folder / "metrics.jsonl")[-1]
    assert line["split"] == "dev"
    for name, split in zip(losses, ("dev", "dev_mm"), strict=False):
        logits, labels = saved[f"last/{split}/logits"], saved[f"{split}/labels"]
        if task == "stsb":
            expected = mean_squared_error(labels, logits[:, 0])
        else:
            expected = log_loss(labels, softmax(logits), labels=[0, 1, 2])
        assert line[name] == pytest.approx(expected, rel=1e-6)
    # Results hold metrics alone.
    assert not any(key.startswith("loss") for key in record["results"]["best"])


def test_gradient_norm_and_components_are_those_of_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    original = Stepper.__init__

    def watched(self: Stepper, *args: Any) -> None:
        original(self, *args)

        def norm(moment: str) -> None:
            if moment == "backward":  # nothing is clipped yet
                grads = [p.grad.double() for p in self.parameters.values() if p.grad is not None]
                norms.append(math.sqrt(sum(float((g**2).sum()) for g in grads)))

        self.observe = norm

    monkeypatch.setattr(Stepper, "__init__", watched)
    run(small(tmp_path, "method=dora", "clip=0.1"))
    folder = only_run(tmp_path)
    trained = [e for e in lines(folder / "metrics.jsonl") if e["split"] == "train"]
    assert [e["step"] for e in trained] == [10, 20, 24]
    assert [e["epoch"] for e in trained] == [0.8333, 1.6667, 2.0]  # of 12 steps, in four digits
    for event in trained:
        assert event["gradient_norm"] == pytest.approx(norms[event["step"] - 1], rel=1e-5)
        allocated = [a for a in lines(folder / "ranks.jsonl") if a["step"] <= event["step"]]
        assert event["components"] == allocated[-1]["total"]
    assert trained[0]["gradient_norm"] > 0.1


def test_the_logged_rate_is_the_adapters_where_the_optimizer_moves_the_head_alone(
    tmp_path: Path,
) -> None:
    rates = ("lr=1e-3", "head_lr=1e-2", "warmup=0", "schedule=linear", "max_steps=10")
    run(small(tmp_path, "method=lora_pro", "method.mode=full", "budget=r1", *rates))
    [line] = [e for e in lines(only_run(tmp_path) / "metrics.jsonl") if e["split"] == "train"]
    assert line["lr"] == pytest.approx(1e-3 / 10)  # the last of ten steps down to 0
