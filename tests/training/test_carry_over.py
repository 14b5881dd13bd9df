"""Weights of an earlier run in the model of this one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dora.adapters import components
from dora.adapters.lowrank import LowRankLinear
from dora.errors import UserError
from dora.preparing.init_from import EarlierRun
from dora.training.carry_over import _trained_again, carry_over


@pytest.mark.parametrize("gated", [True, False])
def test_kept_factors_of_a_chain_are_trained_again_with_the_same_update(
    gated: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layer = LowRankLinear(torch.nn.Linear(4, 5), 3, 0.5, 0.0, gated)
    for p in layer.factors().values():
        torch.nn.init.normal_(p)
    starts = {"A": torch.randn(2, 4), "B": torch.randn(5, 2), "g": torch.randn(2)}
    components.renew([layer], [{name: starts[name] for name in layer.factors()}])
    held = {f"m.{n}": t.detach() for n, t in {**layer.factors(), **layer.kept()}.items()}
    given = _trained_again(held, layer.scale)
    assert set(given) == {f"m.{name}" for name in layer.factors()}
    fresh = LowRankLinear(layer.base, 5, 2.0, 0.0, gated)
    method: Any = SimpleNamespace(result="adapter", layers={"m": fresh}, frozen=dict)
    earlier = EarlierRun(tmp_path, tmp_path / "best.safetensors", {"m": 5}, layer.scale, "0")
    save_file(held, earlier.file)
    carry_over(earlier, torch.nn.ModuleDict({"m": fresh}), method, [])
    assert (fresh.rank, fresh.kept_rank) == (5, 0)
    torch.testing.assert_close(fresh.delta(), layer.delta(), rtol=1e-6, atol=1e-6)


def test_a_file_changes_nothing_that_this_run_keeps_frozen(tmp_path: Path) -> None:
    layer = LowRankLinear(torch.nn.Linear(4, 5), 2, 0.5, 0.0, gated=False)
    model = torch.nn.ModuleDict({"m": layer})
    method: Any = SimpleNamespace(result="adapter", layers={"m": layer}, frozen=dict)
    held = {f"m.{name}": torch.ones_like(p) for name, p in layer.factors().items()}
    earlier = EarlierRun(tmp_path, tmp_path / "best.safetensors", {"m": 2}, 1.0, "0")
    save_file(held, earlier.file)
    carry_over(earlier, model, method, [])
    assert torch.equal(layer.A, torch.ones(2, 4))
    assert layer.scale == 1.0  # the earlier run's
    before = layer.base.weight.clone()
    save_file({**held, "m.base.weight": torch.zeros(5, 4)}, earlier.file)
    with pytest.raises(UserError, match=r"holds m\.base\.weight, which this run does not train"):
        carry_over(earlier, model, method, [])
    assert torch.equal(layer.base.weight, before)


def test_modules_of_another_shape_are_refused(tmp_path: Path) -> None:
    method: Any = SimpleNamespace(result="modules", layers={}, frozen=dict)
    earlier = EarlierRun(tmp_path, tmp_path / "best.safetensors", {}, None, "0")
    save_file({"m.weight": torch.zeros(3, 1), "m.bias": torch.zeros(3)}, earlier.file)
    with pytest.raises(UserError, match=r"does not fit this run's modules: m\.weight; start from"):
        carry_over(earlier, torch.nn.ModuleDict({"m": torch.nn.Linear(2, 3)}), method, [])
