"""Weights & Biases, by choice: `wandb=offline` or `online`. metrics.jsonl is written in any case."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

from dora.config import Config
from dora.record import Record


def start(
    config: Config, record: Record, settings: dict[str, Any]
) -> tuple[Callable[[dict[str, Any]], None], Any]:
    """(log one event, the wandb run or None). Seeds of one configuration share a group; a resumed run goes on
    with its own curve, found by an id made of its directory and first start."""
    if config.wandb == "off":
        return (lambda event: None), None
    import wandb

    *group, seed = record.folder.parts[-7:]
    born = record.data["times"]["started"]
    folder = os.path.join(config.results, "wandb")
    os.makedirs(folder, exist_ok=True)
    run = wandb.init(
        project="dora-glue", mode=config.wandb,  # type: ignore[arg-type]  # checked by config.check
        dir=folder, resume="allow",
        id=hashlib.sha256(f"{record.folder.parts[-7:]} {born}".encode()).hexdigest()[:16],
        name="/".join([*group, seed]), group="/".join(group), job_type=config.method_name,
        tags=[config.task.name, config.method_name, config.model_name, config.data.name], config=settings,
    )  # fmt: skip

    def log(event: dict[str, Any]) -> None:
        split = event["split"]
        values = {f"{split}/{k}": v for k, v in event.items() if isinstance(v, int | float) and k != "step"}
        run.log(values, step=event["step"])

    return log, run
