"""`dora.run` in float64 without dropout: python double_run.py key=value ...

Its record has the loss of every step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dora.backbones import backbone
from dora.run import main
from dora.training import loop

load = backbone.load_model


def in_double(*args: Any) -> tuple[nn.Module, list[str]]:
    """Returns the model that the suite loads, in float64, with dropout off."""
    model, head = load(*args)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.double(), head


# Before anything is made: adapters are drawn in the default type.
torch.set_default_dtype(torch.float64)
backbone.load_model = in_double
loop.LOG_EVERY = 1
main()
