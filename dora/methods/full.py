"""Full fine-tuning trains every weight. It has no budget and no components."""

from __future__ import annotations

from torch import nn

from dora.adapters.plan import Plan
from dora.methods import base
from dora.methods.base import RunInfo


class FullFineTuning(base.Method):
    """Trains every weight of the backbone."""

    title = "full fine-tuning"
    recordable = True
    budget = "none"
    result = "model"

    def __init__(
        self, settings: base.Settings, model: nn.Module, plan: Plan | None, run: RunInfo
    ) -> None:
        model.requires_grad_(True)
