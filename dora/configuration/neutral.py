"""The keys of a run's configuration that change no more than the last bits of its result.

They are no part of a run's name (`dora.records.identity`), and a search and the study that takes
its rates may differ in them (`dora.configuration.rates_from`).
"""

from __future__ import annotations

NEUTRAL = (
    "device",
    "compile",
    "cuda_graphs",
    "wandb",
    "tensorboard",
    "force",
    "checkpoint_every",
    "keep_model",
)
