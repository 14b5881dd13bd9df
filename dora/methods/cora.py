"""CoRA (Xiao et al., 2024, arXiv 2409.02119): LoRA whose B lies in a subspace that models share.

    y = W0 x + b0 + s B A x    B: (d_out, r), orthonormal columns    A: (r, d_in), 0 at the start

`basis=fixed` keeps B and trains A, half of LoRA's parameters; `basis=init` trains both. The paper
extracts the subspace from several large models and does not say how. Ours [ours]:

* from finished runs on other tasks (`runs`): the first left singular vectors of their updates of a
  matrix, side by side, each of Frobenius norm 1;
* without runs, from the backbone alone, which is not the paper's method: those of one kind's
  weights (query, …) in all layers, one basis for the kind.

Not the recommendation method "CoRA" (arXiv 2408.10645).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from dora.adapters.budget import Budget, Matrix
from dora.adapters.lowrank import LowRankLinear
from dora.adapters.peft import factor_name, magnitude_name, merged
from dora.adapters.plan import Plan
from dora.adapters.singular import common_basis, common_basis_of_weights
from dora.checked_files import tensor_shapes
from dora.errors import UserError
from dora.methods.base import FirstRows, RunInfo
from dora.methods.lora import PlainLoRA, PlainSettings
from dora.methods.rules import one_of


@dataclass
class Settings(PlainSettings):
    """The settings in conf/method/cora.yaml."""

    basis: str
    runs: list[str] | None

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range."""
        return [
            *super().problems(total_steps),
            *one_of("method.basis", self.basis, ("fixed", "init"), "usual is fixed"),
        ]


class CoRA(PlainLoRA):
    """Starts B at a common basis and A at zero, and trains A, or both."""

    title = "CoRA"
    paper = "Xiao et al., CoRA, 2024, arXiv 2409.02119"
    note = (
        "CoRA's common subspace is that of the backbone's own weights, unless method.runs names "
        "runs on other tasks: the paper takes it from other large models."
    )
    settings_type = Settings
    layout = ("basis",)  # a fixed B goes on as one
    sources = "runs"

    def __init__(
        self, settings: Settings, model: torch.nn.Module, plan: Plan, run: RunInfo
    ) -> None:
        super().__init__(settings, model, plan, run)
        self.run = run
        if settings.basis == "fixed":
            for layer in self.layers.values():
                layer.B.requires_grad_(False)

    @classmethod
    def plan(
        cls, settings: Settings, budget: Budget, matrices: tuple[Matrix, ...], run: RunInfo
    ) -> Plan:
        """Gives every matrix one rank, and the rest of a parameter budget in layer order.

        Raises ValueError if the budget does not fit the matrices, or if the runs' updates have
        fewer directions than a matrix needs.
        """
        plan = super().plan(settings, budget, matrices, run)
        held = [tensor_shapes(file) for file in run.sources]
        for matrix, rank in zip(matrices, plan.start, strict=True):
            there = sum(_directions(shapes, matrix) for shapes in held)
            if held and there < rank:
                raise ValueError(
                    f"budget={budget} makes a rank of {rank}, and the updates of {matrix.name} in "
                    f"method.runs have {there} directions: name more runs, or runs of higher rank"
                )
        return plan

    def begin(self, forward: FirstRows) -> None:
        """Sets B to the common basis."""
        bases = self._of_runs() if self.run.sources else self._of_weights()
        for name, layer in self.layers.items():
            if layer.rank:
                layer.B.data.copy_(bases[name][:, : layer.rank])

    def frozen(self) -> dict[str, Tensor]:
        """Returns B where it is fixed."""
        if self.settings.basis == "init":
            return {}
        return {f"{name}.B": layer.B for name, layer in self.layers.items()}

    def _draw(self, generator: torch.Generator) -> None:
        """Leaves A at zero: B is not, so that a random A would change the model."""

    def _of_weights(self) -> dict[str, Tensor]:
        """Returns each matrix's basis, one for all layers of its kind."""
        # A kind is a name without the layers' numbers, and a width, in models of all makes.
        kinds: dict[tuple[str, int], list[str]] = {}
        for name, layer in self.layers.items():
            kind = ".".join(part for part in name.split(".") if not part.isdigit())
            kinds.setdefault((kind, layer.out_features), []).append(name)
        bases: dict[str, Tensor] = {}
        for names in kinds.values():
            layers = [self.layers[name] for name in names]
            rank = max(layer.rank for layer in layers)
            weights = [layer.unpacked().to(layer.A.dtype) for layer in layers]
            basis = common_basis_of_weights(weights, rank)
            bases |= dict.fromkeys(names, basis)
        return bases

    def _of_runs(self) -> dict[str, Tensor]:
        """Returns each matrix's basis from what the runs changed in it."""
        found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.layers}
        device = str(next(iter(self.layers.values())).A.device)
        for file in self.run.sources:
            with safe_open(file, "pt", device) as held:
                for name, layer in self.layers.items():
                    update = _update(held, name, layer)
                    if update is not None:
                        found[name].append(update)
        bases = {}
        for name, layer in self.layers.items():
            if layer.rank:
                try:
                    bases[name] = common_basis(found[name], layer.rank)
                except ValueError as e:
                    raise UserError(
                        f"the updates of {name} in method.runs {e}: name other runs, or more"
                    ) from e
        return bases


def _directions(shapes: Mapping[str, tuple[int, ...]], matrix: Matrix) -> int:
    """Returns how many directions a run's update of a matrix can have, from its file's shapes."""
    A = shapes.get(factor_name(matrix.name, "A"))
    if A is not None and magnitude_name(matrix.name) not in shapes:
        return A[0]
    return matrix.full_rank if A is not None or f"{matrix.name}.weight" in shapes else 0


def _update(held: Any, name: str, layer: LowRankLinear) -> tuple[Tensor, Tensor] | None:
    """Returns what a run changed in a matrix as (A, B), its scale in B; None if nothing.

    `held`: the opened safetensors file.
    """
    there, W = held.keys(), layer.base.weight
    if f"{name}.weight" in there:  # a whole model's
        return _as_factors(held.get_tensor(f"{name}.weight") - W)
    if factor_name(name, "A") not in there:
        return None
    A, B = (held.get_tensor(factor_name(name, factor)) for factor in "AB")
    if magnitude_name(name) in there:
        return _as_factors(merged(W, A, B, held.get_tensor(magnitude_name(name))).to(W) - W)
    return (A, B) if B.any() else None


def _as_factors(change: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a change of any rank, (d_out, d_in), as (A, B): the identity, and itself."""
    return torch.eye(change.shape[1], dtype=change.dtype, device=change.device), change
