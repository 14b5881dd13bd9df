"""Weights & Biases, if asked for: `wandb=offline` or `online`.

metrics.jsonl is written in any case.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

from dora.config import Config
from dora.errors import UserError
from dora.records.record import Record


class Tracker:
    """One run's curve on Weights & Biases; does nothing with `wandb=off`.

    Seeds of one configuration share a group. A resumed run goes on with its own curve, found by an
    id made of its directory and first start.
    """

    def __init__(self, config: Config, record: Record, settings: dict[str, Any]) -> None:
        self.run = None if config.wandb == "off" else _begin(config, record, settings)

    def log(self, event: dict[str, Any]) -> None:
        """Sends the numbers in one line of metrics.jsonl, each under its split's name."""
        if self.run is not None:
            split = event["split"]
            values = {
                f"{split}/{k}": v
                for k, v in event.items()
                if isinstance(v, int | float) and k != "step"
            }
            self.run.log(values, step=event["step"])

    def finish(self, record: Record, say: Callable[[str], None]) -> None:
        """Ends the curve, marked as failed unless the run is done.

        An error here is said by `say` and takes nothing from the run.
        """
        if self.run is None:
            return
        try:
            if record.done:
                best = record.data["results"]["best"]
                # wandb's summary would show the last values; the best evaluation is what counts.
                self.run.summary.update({k: v for k, v in best.items() if k != "step"})
            self.run.finish(exit_code=int(not record.done))
        except Exception as e:  # wandb's own errors, the network's, a full disk's
            say(
                f"wandb did not end well ({type(e).__name__}: {e}); "
                "metrics.jsonl has all that was logged"
            )


def _begin(config: Config, record: Record, settings: dict[str, Any]) -> Any:
    """Returns the wandb run of this record, a new or a resumed one. Raises UserError."""
    import wandb  # late: slow to import, and most runs do without

    # data, task, model, method, budget, key, seed
    *group, seed = record.folder.parts[-7:]
    born = record.data["times"]["started"]
    folder = os.path.join(config.results, "wandb")
    os.makedirs(folder, exist_ok=True)
    try:
        # Without finish_previous wandb returns the run before, if a sweep could not end that one.
        return wandb.init(
            project="dora-glue",
            mode=config.wandb,  # type: ignore[arg-type]  # checked by dora.check
            dir=folder,
            resume="allow",
            reinit="finish_previous",
            id=hashlib.sha256(f"{record.folder.parts[-7:]} {born}".encode()).hexdigest()[:16],
            name="/".join([*group, seed]),
            group="/".join(group),
            job_type=config.method_name,
            tags=[config.task.name, config.method_name, config.model_name, config.data.name],
            config=settings,
        )
    except wandb.Error as e:  # no network, or a key that the server does not know
        why = " ".join(str(e).split())[:200]
        raise UserError(
            f"wandb={config.wandb} cannot begin ({type(e).__name__}: {why}); see to the network "
            "and the key, or write wandb=offline, which `wandb sync` uploads later"
        ) from e
