"""Whether a run's steps can be recorded as CUDA graphs."""

from __future__ import annotations

from dora.configuration.config import Config
from dora.methods.base import is_recordable


def not_recordable(config: Config, on_gpu: bool) -> str | None:
    """Returns why no step of a run can be recorded, as `on a CPU`; None if they can be."""
    reasons = {
        "on a CPU": not on_gpu,
        "with compile=true": config.compile,
        f"with grad_accum={config.grad_accum}": config.grad_accum > 1,
        f"with method={config.method_name}": not is_recordable(config.chosen.kind),
    }
    return next((text for text, holds in reasons.items() if holds), None)
