"""Peak memory of a run: GPU memory as PyTorch counts it, else that of the process."""

from __future__ import annotations

import contextlib
import re
import resource
from pathlib import Path

import torch


def reset_peak(device: torch.device) -> None:
    """Sets the peak memory back to the memory in use now.

    Needed at the start of each run, because the peak belongs to the process, and a sweep trains
    many runs in one process. Memory that the process still holds is counted all the same.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # Only Linux has the file. 5 resets the peak resident set size (proc(5), clear_refs).
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak(device: torch.device) -> int:
    """Returns the peak memory in bytes since `reset_peak`, or since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"VmHWM:\s*([0-9]+) kB", status):
            return int(found[1]) * 1024
    # Only for other systems: on Linux ru_maxrss begins at the memory of the process that started
    # this one, and no reset changes it.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
