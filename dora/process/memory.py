"""The most memory that a run has used: a GPU's as PyTorch counts it, else the process's own."""

from __future__ import annotations

import contextlib
import re
import resource
from pathlib import Path

import torch


def reset_peak(device: torch.device) -> None:
    """Begins to count anew. Peak memory is the process's, and a sweep trains many runs in one; what the process still
    holds counts all the same.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # Linux alone has it
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak(device: torch.device) -> int:
    """Bytes since `reset_peak`, or since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"VmHWM:\s*([0-9]+) kB", status):
            return int(found[1]) * 1024
    # Elsewhere; on Linux it begins at what the process that started this one held, and no reset changes that.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
