"""The methods by name. A new one is its file, a line here, a YAML of one line and a test (CONTRIBUTING.md)."""

from __future__ import annotations

from typing import Any

from dora.methods import adalora, dora, full, lora

# name → (its settings, its class); the name is what `method=` takes.
METHODS: dict[str, tuple[Any, Any]] = {
    "full": (full.Settings, full.Full),
    "lora": (lora.Settings, lora.LoRA),
    "adalora": (adalora.Settings, adalora.AdaLoRA),
    "dora": (dora.Settings, dora.DoRA),
}


def name_of(settings: Any) -> str:
    """The method that these settings belong to."""
    return next(name for name, (kind, _) in METHODS.items() if type(settings) is kind)
