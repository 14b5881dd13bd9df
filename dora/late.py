"""Modules imported when they are first used, for files that must be readable without them; and imports made cheaper.

A method's file holds the schema of its settings, which the command line needs for --help, and its
mathematics, which needs PyTorch. Importing PyTorch takes two seconds.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any


class Late:
    """Stands for the module `name`; its attributes are that module's own."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)  # once imported, this is a look-up


@contextmanager
def uncollected() -> Iterator[None]:
    """Halts Python's garbage collector while modules are imported.

    Those of a run are half a million objects, all of them there to stay, and searching them again and again
    takes a seventh of start-up.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


if TYPE_CHECKING:
    import torch as torch
    from torch import nn as nn

    from dora import lowrank as lowrank
else:
    torch, nn, lowrank = Late("torch"), Late("torch.nn"), Late("dora.lowrank")
