"""FFA-LoRA (Sun et al., ICLR 2024, arXiv 2403.12313): federated LoRA whose A is frozen.

A is drawn once, the same for all clients, and never trained; B and the head are. The average of the
clients' updates is then exact: Σ p_k B_k A = B̄ A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dora.adapters.plan import Plan
from dora.methods.base import RunInfo, Tensors
from dora.methods.fedit import FedIT, average
from dora.methods.lora import PlainSettings
from dora.methods.rules import one_of


@dataclass
class Settings(PlainSettings):
    """The settings in conf/method/ffa_lora.yaml."""

    init: str

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range."""
        return [
            *super().problems(total_steps),
            *one_of("method.init", self.init, ("kaiming", "normal"), "usual is kaiming"),
        ]


class FFALoRA(FedIT):
    """Freezes A where it was drawn."""

    title = "FFA-LoRA"
    paper = "Sun et al., FFA-LoRA, ICLR 2024, arXiv 2403.12313"
    settings_type = Settings

    def __init__(self, settings: Settings, model: nn.Module, plan: Plan, run: RunInfo) -> None:
        super().__init__(settings, model, plan, run)
        for layer in self.layers.values():
            layer.A.requires_grad_(False)

    def aggregate(
        self, uploads: Sequence[Tensors], shares: Sequence[float], before: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Returns the averages; their update is the updates' own average."""
        return average(uploads, shares), {}

    def frozen(self) -> dict[str, Tensor]:
        """Returns A, which belongs to the result."""
        return {f"{name}.A": layer.A for name, layer in self.layers.items()}

    def _draw(self, generator: torch.Generator) -> None:
        if self.settings.init == "kaiming":
            return super()._draw(generator)
        for layer in self.layers.values():
            # The scale is that of kaiming's values: the paper does not give its Gaussian's.
            std = (3 * layer.base.in_features) ** -0.5
            nn.init.normal_(layer.A, std=std, generator=generator)
