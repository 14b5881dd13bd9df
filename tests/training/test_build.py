"""A run is built as its rows and its method ask, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dora.errors import UserError
from dora.methods.lora import LoRA
from dora.preparing.prepare import prepare
from dora.training.build import build
from dora.training.lines import Lines
from dora.training.processes import World
from runs import of_kind, run, small


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
