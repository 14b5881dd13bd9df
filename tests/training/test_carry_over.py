"""Weights of an earlier run in the model of this one."""

from __future__ import annotations

import pytest
import torch

from dora.adapters import lowrank, result
from dora.adapters.lowrank import LowRankLinear
from dora.training.carry_over import _trained_again


@pytest.mark.parametrize("gated", [True, False])
def test_kept_factors_of_a_chain_are_trained_again_with_the_same_update(gated: bool) -> None:
    torch.manual_seed(0)
    layer = LowRankLinear(torch.nn.Linear(4, 5), 3, 0.5, 0.0, gated)
    for p in layer.factors().values():
        torch.nn.init.normal_(p)
    starts = {"A": torch.randn(2, 4), "B": torch.randn(5, 2), "g": torch.randn(2)}
    lowrank.renew([layer], [{name: starts[name] for name in layer.factors()}])
    held = {f"m.{n}": t.detach() for n, t in {**layer.factors(), **layer.kept()}.items()}
    given = _trained_again(held, layer.scale)
    assert set(given) == {f"m.{name}" for name in layer.factors()}
    fresh = LowRankLinear(layer.base, 5, 0.5, 0.0, gated)
    holder = torch.nn.ModuleDict({"m": fresh})
    result.restore(holder, {}, given)
    assert (fresh.rank, fresh.kept_rank) == (5, 0)
    torch.testing.assert_close(fresh.delta(), layer.delta(), rtol=1e-6, atol=1e-6)
