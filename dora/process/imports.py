"""Imports made cheaper."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
