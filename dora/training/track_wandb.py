"""Weights & Biases: `wandb=offline` or `online`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from dora.configuration.config import Config
from dora.process import machine
from dora.records.place import place_of
from dora.records.record import Record


class WeightsAndBiases:
    """One run's curves on Weights & Biases. Raises what wandb raises where they cannot begin.

    Seeds of one configuration share a group. A resumed run goes on with its own curves, found by an
    id made of its directory and first start. `about`: the run's configuration.
    """

    name = "wandb"

    def __init__(self, config: Config, record: Record, about: dict[str, Any]) -> None:
        place = place_of(record.folder)
        *group, _ = place
        born = record.data["times"]["started"]
        id_ = hashlib.sha256(f"{tuple(place)} {born}".encode()).hexdigest()[:16]
        folder = Path(config.results) / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        before = list(folder.glob(f"wandb/offline-run-*-{id_}"))
        # Without finish_previous wandb returns the run before, if a sweep could not end it.
        self.run = wandb.init(
            project="dora-glue",
            mode=config.wandb,  # type: ignore[arg-type]  # checked by dora.configuration.check
            dir=str(folder),
            resume="allow",
            reinit="finish_previous",
            id=id_,
            name="/".join(place),
            group="/".join(group),
            job_type=config.method_name,
            tags=[config.task.name, config.method_name, config.model_name, config.data_name],
            config=about,
        )
        # The server keeps the points that it has; `starting_step` is the first that it lacks.
        self.lacks_from = int(self.run.starting_step)
        # Offline the new folder gets every point. An earlier one lacks the last of them if its
        # process was killed, and `wandb sync` would upload what they share twice.
        for earlier in before if config.wandb == "offline" else []:
            if not any(earlier.glob("*.synced")):
                machine.discard(earlier)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Sends values at a step; those of one step, sent one after the other, are one row."""
        self.run.log(values, step=step)

    def histogram(self, step: int, name: str, counts: np.ndarray, edges: np.ndarray) -> None:
        """Sends a histogram of these bins."""
        self.run.log({name: wandb.Histogram(np_histogram=(counts, edges))}, step=step)

    def finish(self, step: int, summary: dict[str, float] | None) -> None:
        """Ends the curves, marked as failed unless the run is done."""
        # wandb's own summary holds the last values; the best evaluation is what counts.
        self.run.summary.update(summary or {})
        self.run.finish(exit_code=int(summary is None))

    def leave(self) -> None:
        """Does nothing: the process ends, and wandb with it; a cluster waits for no upload."""
