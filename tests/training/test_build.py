"""A run is built as its rows and its method ask, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dora.adapters.budget import Budget, Matrix
from dora.adapters.plan import Plan, equal_plan
from dora.errors import RunFailed, UserError
from dora.methods.base import Method
from dora.methods.lora import LoRA
from dora.preparing.prepare import prepare
from dora.training.build import build
from dora.training.lines import Lines
from dora.training.processes import World
from runs import of_kind, run, small


class Dear(LoRA):
    """Says of its components that they store more than they do."""

    @classmethod
    def component_cost(cls, matrix: Matrix) -> int:
        return 2 * (matrix.d_in + matrix.d_out)


class OwnWeights(Method):
    """Trains whole matrices under a budget that it plans for components."""

    title = "x"
    result = "weights"

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        self._ranks = {m.name: r for m, r in zip(plan.matrices, plan.start, strict=True)}
        model.get_parameter(f"{plan.matrices[0].name}.weight").requires_grad_(True)

    @classmethod
    def plan(cls, settings: Any, budget: Budget, matrices: tuple[Matrix, ...], run: Any) -> Plan:
        return equal_plan(budget, matrices)

    def ranks(self) -> dict[str, int]:
        return self._ranks


class Unfinished(LoRA):
    """Changes components behind the run's end."""

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        super().__init__(settings, model, plan, run)
        self.ranks_final_at = run.total_steps + 10


def test_an_end_behind_the_runs_last_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"Unfinished\.ranks_final_at=12 is behind the run's last step, 2: .*max_st"
    ):
        run(of_kind(Unfinished, tmp_path))


def test_a_component_that_does_not_cost_what_its_method_says_fails_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"Dear\.component_cost must say what a component stores"):
        run(of_kind(Dear, tmp_path))


def test_weights_under_a_budget_are_counted_too(tmp_path: Path) -> None:
    with pytest.raises(
        RunFailed, match=r"best.safetensors holds 36,864: OwnWeights\.component_cost"
    ):
        run(of_kind(OwnWeights, tmp_path))


def test_a_regressions_head_starts_at_the_mean_label_of_its_own_training_rows(
    tmp_path: Path,
) -> None:
    p = prepare(small(tmp_path, "method=lora", "task=stsb", "limit_train=20"))
    loop = build(p, World(0, 1, torch.device("cpu")), None, Lines(None))
    labels = p.rows["train"].label
    assert labels is not None
    means = [float(np.mean(of)) for of in (labels[p.train_rows], labels)]
    bias = loop.setup.model.get_parameter("classifier.out_proj.bias").item()
    assert bias == pytest.approx(means[0], abs=1e-6)
    assert abs(means[0] - means[1]) > 1e-3  # other rows would show
