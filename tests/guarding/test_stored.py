"""A layer of one's own that stores another update than it adds is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from dora.adapters import lowrank
from dora.adapters.budget import Budget, Matrix
from dora.adapters.lowrank import LowRankLinear
from dora.adapters.plan import Plan, equal_plan
from dora.errors import RunFailed
from dora.methods.base import Method
from runs import of_kind, run


class TwiceLinear(LowRankLinear):
    """Adds twice the update that it stores."""

    def forward(self, x: Tensor) -> Tensor:
        update = F.linear(F.linear(x, self.A), self.B)
        return F.linear(x, self.base.weight, self.base.bias) + 2 * self.scale * update


class StoredLinear(TwiceLinear):
    """Stores what it adds."""

    def stored(self) -> tuple[Tensor, Tensor]:
        A, B = self.folded()
        return A, 2 * B


class Twice(Method):
    """Low-rank layers of one's own."""

    title = "x"
    layer: type[LowRankLinear] = TwiceLinear

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        self.layers = lowrank.adapt(
            model, plan.matrices, plan.start, 1.0, 0.0, False, layer_type=self.layer
        )
        for layer in self.layers.values():
            nn.init.normal_(layer.A)
            nn.init.normal_(layer.B, std=0.01)

    @classmethod
    def plan(cls, settings: Any, budget: Budget, matrices: tuple[Matrix, ...], run: Any) -> Plan:
        return equal_plan(budget, matrices)


class Stored(Twice):
    """The same, with an update that is stored as it is."""

    layer = StoredLinear


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_layer_that_stores_another_update_than_it_adds_fails_the_run(
    precision: str, tmp_path: Path
) -> None:
    config = of_kind(Twice, tmp_path)
    config.precision = precision
    with pytest.raises(RunFailed, match=r"TwiceLinear\.stored\(\) gives another update than forw"):
        run(config)
    config = of_kind(Stored, tmp_path / "stored")
    config.precision = precision
    assert run(config)["status"] == "done"
