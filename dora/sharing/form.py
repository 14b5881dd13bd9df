"""The choices that an export leaves to its user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Form:
    """Holds what was asked of an export.

    `merge`: the base model with the adapter added, instead of the adapter; a method whose result is
    trained backbone tensors is always written so. `alone`: the adapter without its base model.
    `base`: the base model's folder, if it has moved since training. `repository`: the hub's
    repository that the folder is for. `license`: the card's, if it is not the base model's.
    """

    merge: bool = False
    alone: bool = False
    base: Path | None = None
    repository: str | None = None
    license: str | None = None
