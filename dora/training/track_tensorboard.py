"""TensorBoard: `tensorboard=true`, shown offline by `tensorboard --logdir results/runs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from dora.plain import dotted, with_commas

FOLDER = "tensorboard"


class TensorBoard:
    """One run's curves as event files in its directory, one file for each start.

    `about`: the run's configuration, for the page of hyperparameters. `step`: the one after which
    this start goes on; points after it, of an earlier start, are hidden. `metrics`: the names of
    the summary's values that stand beside the hyperparameters.
    """

    name = "tensorboard"

    def __init__(
        self, run: Path, about: Mapping[str, Any], step: int, metrics: Sequence[str]
    ) -> None:
        folder = run / FOLDER
        # Every line is in the file before the journals' checkpoint is.
        self.lacks_from = step + 1 if any(folder.glob("events.*")) else 0
        self._writer = SummaryWriter(str(folder), purge_step=self.lacks_from or None)
        # The page takes numbers, texts and truth values.
        shown = {key: with_commas(v) for key, v in dotted(about).items() if v is not None}
        *begin, self._end = hparams(shown, dict.fromkeys(metrics, 0.0))
        for part in begin:
            self._writer._get_file_writer().add_summary(part)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Writes values at a step; they are in the file before this returns."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        # A checkpoint may follow, and a kill: a resumed run does not write the line again.
        self._writer.flush()

    def histogram(self, step: int, name: str, counts: np.ndarray, edges: np.ndarray) -> None:
        """Writes a histogram of these bins."""
        middles = (edges[:-1] + edges[1:]) / 2
        self._writer.add_histogram_raw(
            name,
            min=float(middles[counts > 0].min()),
            max=float(middles[counts > 0].max()),
            num=int(counts.sum()),
            sum=float(counts @ middles),
            sum_squares=float(counts @ middles**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )
        self._writer.flush()

    def finish(self, step: int, summary: Mapping[str, float] | None) -> None:
        """Writes the summary, which ends the session of a run that is done, and closes the file."""
        if summary is not None:
            self.log(step, summary)
            self._writer._get_file_writer().add_summary(self._end)
        self._writer.close()

    def leave(self) -> None:
        """Closes the file."""
        self._writer.close()
