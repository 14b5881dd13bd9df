"""Peak memory is that of the process since the last reset, whichever process started it."""

from __future__ import annotations

import numpy as np
import torch

from dora.process import memory
from runs import python

CPU = torch.device("cpu")


def test_a_large_process_that_starts_another_does_not_count_as_its_memory() -> None:
    large = np.ones(1 << 25)  # 256 MiB, and on Linux a child's ru_maxrss begins at it
    # An empty stand-in for torch, which takes seconds to import.
    no_torch = "import sys, types; sys.modules['torch'] = types.ModuleType('torch')"
    asked = "from dora.process import memory; print(memory.peak(types.SimpleNamespace(type='cpu')))"
    child = python("-c", f"{no_torch}; {asked}")
    assert 1 << 20 < int(child.stdout) < large.nbytes


def test_a_reset_forgets_what_was_given_back() -> None:
    large = np.ones(1 << 26)
    before = memory.peak(CPU)
    del large
    memory.reset_peak(CPU)
    low = memory.peak(CPU)
    assert low < before - (1 << 28)
    again = np.ones(1 << 25)
    assert memory.peak(CPU) > low + again.nbytes // 2
