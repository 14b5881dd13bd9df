"""Modules that are imported when they are first used, for files that must be readable without them.

A method's file holds the schema of its settings, which the command line needs for --help, and its
mathematics, which needs PyTorch. Importing PyTorch takes two seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any


class Late:
    """Stands for the module `name`; its attributes are that module's own."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)  # once imported, this is a look-up


if TYPE_CHECKING:
    import torch as torch
    from torch import nn as nn

    from dora import lowrank as lowrank
else:
    torch, nn, lowrank = Late("torch"), Late("torch.nn"), Late("dora.lowrank")
