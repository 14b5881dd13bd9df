"""Searches and scores for tests, made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from dora.configuration.search_file import Key, Search


def search_at(*place: Any, length: str = "600 steps", data: str = "dir", **more: Any) -> Search:
    """Returns a search; `place`: model, task, method and budget, then a Search's own fields."""
    return Search(Key(*place[:4], length=length, data=data), *place[4:], **more)


def peak(at: float) -> Callable[[float], float]:
    """Returns a score with its maximum at a rate, falling by a point with each factor of 2."""
    return lambda rate: 90 - abs(math.log2(rate / at))
