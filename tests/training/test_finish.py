"""The end of a run predicts no split twice, and what it reuses is what predicting again gives."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dora.adapters.budget import Budget, Matrix
from dora.adapters.changes import Mask, Remove
from dora.adapters.lowrank import LowRankLinear, adapt
from dora.adapters.plan import Plan, pruning_plan
from dora.data import npz
from dora.errors import RunFailed, Stopped
from dora.methods.dora import DoRA
from dora.methods.lora import LoRA
from dora.process.signals import StopSignals
from dora.training import finish, one_run
from dora.training.loop import Loop
from dora.training.selection import Selection
from runs import lines, of_kind, only_run, record, run, same_files, small


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Returns a list that receives (split, step) of every prediction of a run."""
    found: list[tuple[str, int]] = []
    original = Loop.predict

    def predict(self: Loop, tokens: object) -> np.ndarray:
        splits = {**self.setup.scored, **self.setup.reported}
        found.append((next(k for k, v in splits.items() if v is tokens), self.step))
        return original(self, tokens)  # type: ignore[arg-type]

    monkeypatch.setattr(Loop, "predict", predict)
    return found


def best_is(monkeypatch: pytest.MonkeyPatch, right: Callable[[int], bool]) -> None:
    """Makes the evaluation at a step for which `right` holds the best one."""
    offer = Selection.offer
    monkeypatch.setattr(
        Selection,
        "offer",
        lambda self, step, score, *rest: offer(self, step, float(right(step)), *rest),
    )


def in_training(step: int) -> list[tuple[str, int]]:
    """Returns the predictions of evaluations every 6 steps, up to `step`."""
    return [("dev", at) for at in range(6, step + 1, 6)]


def test_a_run_whose_last_step_is_its_best_predicts_every_split_of_its_end_once(
    tmp_path: Path, predicted: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    best_is(monkeypatch, lambda step: step == 24)
    results = run(small(tmp_path, "method=lora"))["results"]
    assert predicted == [*in_training(24), ("test", 24)]
    assert results["best"] == results["last"]
    arrays = npz.load(only_run(tmp_path))
    for split in ("dev", "test"):
        assert np.array_equal(arrays[f"last/{split}/logits"], arrays[f"best/{split}/logits"])


def test_a_run_with_an_earlier_best_step_predicts_its_best_weights_anew_and_keeps_warnings(
    tmp_path: Path, predicted: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    best_is(monkeypatch, lambda step: step == 18)
    after_step = DoRA.after_step

    def warning(self: DoRA, step: int) -> Mask | Remove | None:
        change = after_step(self, step)
        return replace(change, warning="look here") if isinstance(change, Remove) else change

    monkeypatch.setattr(DoRA, "after_step", warning)
    assert run(small(tmp_path, "method=dora"))["warnings"] == ["look here"]
    # When the change is made, and at the end.
    assert (only_run(tmp_path) / "log.txt").read_text().count("warning: look here\n") == 2
    # Of the last weights the test set alone, of the best ones both: their scores are compared.
    assert predicted == [*in_training(24), ("test", 24), ("dev", 24), ("test", 24)]


class HalfLinear(LowRankLinear):
    """Freezes A, which its method draws again, and stores B."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.A.requires_grad_(False)

    def factors(self) -> dict[str, nn.Parameter]:
        return {"B": self.B}


class Half(LoRA):
    """Costs what LoRA does, as it says nothing else."""

    starts_from_runs = False

    def _layer_type(self) -> type[LowRankLinear]:
        return HalfLinear


class Late(LoRA):
    """Masks a component of each matrix, and does not say when."""

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        self.settings = settings
        self.layers = adapt(model, plan.matrices, plan.start, 1.0, 0.0, gated=True)
        for layer in self.layers.values():
            nn.init.normal_(layer.A, std=0.01)
            nn.init.ones_(layer.factors()["g"])

    @classmethod
    def plan(cls, settings: Any, budget: Budget, matrices: tuple[Matrix, ...], run: Any) -> Plan:
        return pruning_plan(budget, matrices, 1.5)

    def after_step(self, step: int) -> Remove | None:
        keep = [torch.arange(layer.rank) < 8 for layer in self.layers.values()]
        return Remove(keep) if step == 6 else None


class Rescaled(LoRA):
    """Sets the layers' scale in every step."""

    def noise(self, step: int) -> None:
        for layer in self.layers.values():
            layer.scale = 1000.0 if step < 6 else 0.0


def test_a_budget_that_binds_another_number_than_the_run_stores_is_told(tmp_path: Path) -> None:
    (warning,) = run(of_kind(Half, tmp_path))["warnings"]
    assert (
        "counts the 55,296 numbers of the adapter for PEFT; the run's own weights are 27,648"
        in warning
    )


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Late, r"in the best evaluation \(Late\.ranks_final_at=0 lets it count\): 144 components"),
        (Rescaled, r"evaluated \(a layer's scale that changes in training is no part of them\)"),
    ],
)
def test_a_best_evaluation_that_the_end_contradicts_names_what_its_method_lacks(
    kind: type[LoRA], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best_is(monkeypatch, lambda step: step == 5)
    config = of_kind(kind, tmp_path)
    config.max_steps, config.eval_every = 6, 1
    with pytest.raises(RunFailed, match=said):
        run(config)


@pytest.mark.parametrize(
    ("budget", "ranks", "said"),
    [
        ("r4", [5, 2], "training ended with 7 of the 8 components of budget=r4: compare the run"),
        ("r4", [5, 3], None),
        ("220", [6, 4], "training ended with 200 of the 220 parameters of budget=220: compare"),
        ("210", [6, 4], None),  # 5 % is 10.5
        ("219", [6, 4], None),  # no component fits
        ("r4", [0, 0], "no component is live"),
    ],
)
def test_a_run_that_ends_below_its_budget_says_so_once(
    budget: str, ranks: list[int], said: str | None, tmp_path: Path
) -> None:
    matrices = (Matrix("a", 10, 10), Matrix("b", 10, 10))
    plan = replace(pruning_plan(Budget.parse("r4"), matrices, 1.5), at_most=True)
    if budget != "r4":
        plan = replace(plan, budget=Budget(params=int(budget)), target=int(budget))
    given: Any = (SimpleNamespace(folder=tmp_path), plan, dict(zip("ab", ranks, strict=True)))
    journal = tmp_path / "ranks.jsonl"
    journal.write_text("")
    counts = {"adapter_end": 20 * sum(ranks)}
    found = finish._warnings(*given, counts=counts, own=False)
    assert found == [] if said is None else [text.startswith(said) for text in found] == [True]
    # The method has said it, with its own way out.
    if any(ranks):
        journal.write_text('{"step": 1, "warning": "too much"}\n')
        assert finish._warnings(*given, counts=counts, own=False) == ["too much"]


def test_the_reused_logits_are_those_that_predicting_again_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(tmp_path / "one", "method=lora", "task=mnli")
    run(config)
    with monkeypatch.context() as patch:
        original = finish.finish

        def forgetful(p: object, loop: Loop, *rest: object) -> None:
            loop._evaluated = (0, {})
            original(p, loop, *rest)  # type: ignore[arg-type]

        patch.setattr(one_run, "finish", forgetful)
        run(small(tmp_path / "two", "method=lora", "task=mnli"))
    same_files(only_run(tmp_path / "one"), only_run(tmp_path / "two"))
    # Both development sets of MNLI are scored in training, so both are reused.
    results = [record(tmp_path / name)["results"] for name in ("one", "two")]
    assert results[0] == results[1]
    assert "accuracy_mm" in results[0]["last"]


def test_a_run_resumed_behind_its_last_evaluation_predicts_each_split_once_too(
    tmp_path: Path, predicted: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    best_is(monkeypatch, lambda step: step == 24)
    config = small(tmp_path, "method=lora")
    with monkeypatch.context() as patch:
        # The last checkpoint is written by then.
        patch.setattr(one_run, "finish", lambda *_: (_ for _ in ()).throw(RuntimeError("cut")))
        with pytest.raises(RuntimeError, match="cut"):
            run(config)
    predicted.clear()
    assert run(config)["status"] == "done"
    assert predicted == [("dev", 24), ("test", 24)]


def test_a_signal_is_heeded_while_the_final_weights_predict_and_the_run_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # QQP's 390,965 test rows may take longer than a cluster waits for a job to end.
    config, signals = small(tmp_path / "cut", "method=lora", "max_steps=12"), StopSignals()
    original = finish.finish

    def signalled(*given: Any) -> None:
        signals.received = signal.SIGUSR2
        original(*given)

    with monkeypatch.context() as patched:
        patched.setattr(one_run, "finish", signalled)
        with pytest.raises(Stopped, match="goes on behind the last step"):
            run(config, signals)
    assert record(tmp_path / "cut")["status"] == "stopped"
    whole = run(small(tmp_path / "whole", "method=lora", "max_steps=12"))
    assert run(config)["results"] == whole["results"]


def test_a_run_that_selects_on_held_out_rows_predicts_the_development_set_at_its_end(
    tmp_path: Path, predicted: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    best_is(monkeypatch, lambda step: step == 24)
    run(small(tmp_path, "method=lora", "select=heldout"))
    assert [split for split, _ in predicted] == ["heldout"] * 4 + ["dev", "test"]


def test_best_weights_may_round_otherwise_and_a_score_that_jumps_by_it_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A collapsed regression: rounding, another one on each device, decides its correlation.
    best_is(monkeypatch, lambda step: step == 18)
    chance = np.random.default_rng(0)
    monkeypatch.setattr(
        Loop,
        "predict",
        lambda self, tokens: (2.5 + 1e-6 * chance.normal(size=(len(tokens), 1))).astype("f4"),
    )
    done = run(small(tmp_path, "method=lora", "task=stsb", "patience=1"))
    evaluated = {
        e["step"]: e for e in lines(only_run(tmp_path) / "metrics.jsonl") if "pearson" in e
    }
    assert abs(done["results"]["best"]["pearson"] - evaluated[18]["pearson"]) > 0.07


@pytest.mark.parametrize("select", ["dev", "heldout"])
def test_best_weights_that_predict_otherwise_than_in_training_fail_the_run(
    select: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best_is(monkeypatch, lambda step: step == 18)
    original = Loop.put

    def others(self: Loop, tensors: dict[str, torch.Tensor]) -> None:
        original(self, {k: 4 * t if k.startswith("classifier") else t for k, t in tensors.items()})

    monkeypatch.setattr(Loop, "put", others)
    with pytest.raises(RunFailed, match="the best evaluation's weights give loss"):
        run(small(tmp_path, "method=lora", f"select={select}"))


@pytest.mark.parametrize(
    ("budget", "ranks", "said"),
    [
        (Budget(rank=2), (1, 2), "1 component of budget=r2 left unused, as the method allows"),
        (Budget(rank=2), (1, 1), "2 components of budget=r2 left unused, as the method allows"),
        # Three components of 9 parameters each.
        (Budget(params=40), (1, 2), "13 parameters of budget=40 left unused, as the method allows"),
        (Budget(rank=2), (1, 3), None),
    ],
)
def test_what_an_upper_bound_leaves_unused_is_said_in_the_budgets_unit(
    budget: Budget, ranks: tuple[int, int], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrices = (Matrix("a", 4, 5), Matrix("b", 4, 5))
    plan = Plan(budget, matrices, (3, 3), None, budget.total(matrices), at_most=True)
    monkeypatch.setattr(finish, "scores_in_words", lambda data: "accuracy 0.5")
    setup = SimpleNamespace(method=SimpleNamespace(result="adapter"))
    loop: Any = SimpleNamespace(setup=setup, seconds=1.0)
    end = {"params": {"adapter_end": 27}, "ranks": {"end": dict(zip("ab", ranks, strict=True))}}
    about = {**end, "warnings": [], "embedded": None}
    record: Any = SimpleNamespace(data=about, folder="x")
    texts: list[str] = []
    say: Any = texts.append
    finish._say_end(loop, record, plan, say)
    assert texts[1:] == ([said] if said else [])
