"""The loop of a federated run: the steps of `Loop`, and the server between them.

Each selected client starts from the global weights with a fresh optimizer. Only whole rounds are
evaluated and saved. A round is a function of the global weights and its number, so a run that was
stopped inside one repeats it, bit for bit, and a checkpoint holds neither moments nor uploads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dora.records.record import Record
from dora.training.course import FederatedCourse
from dora.training.lines import Lines
from dora.training.loop import Loop
from dora.training.step import Setup


class FederatedLoop(Loop):
    """Takes the steps of clients, and lets the method make global weights of theirs."""

    def __init__(self, setup: Setup, record: Record | None, say: Lines) -> None:
        super().__init__(setup, record, say)
        assert isinstance(setup.course, FederatedCourse)
        self.course = setup.course
        # The present round's global tensors, at which its clients start; the tensors that each
        # client has ended with; and each client's share of the rows.
        self._global: dict[str, Tensor] = {}
        self._uploads: list[dict[str, Tensor]] = []
        self._shares: list[float] = []

    def about_rounds(self, step: int) -> dict[str, Any]:
        """Returns the record's entry on clients, rounds, examples and communication up to `step`."""
        rounds = self.course.federation.until(step)
        labels = self.setup.train.label
        assert labels is not None  # training rows have labels
        sent = sum(p.numel() for p in self.stepper.parameters.values())
        frozen = sum(t.numel() for t in self.setup.method.frozen().values())
        examples = self.course.examples(step)
        return {"federation": rounds.about(np.asarray(labels), examples, sent, frozen)}

    def train_step(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Takes step `step` of a client, and the server's part before a turn and after a round."""
        federation = self.course.federation
        place = federation.client_step(step)
        if (place.slot, place.local) == (0, 0):
            self._global, self._uploads, self._shares = self._trained(), [], []
        if place.local == 0:
            self._send(self._global)
        taken = super().train_step(step)
        if place.local == federation.local_steps - 1:
            self._uploads.append(self._trained())
            self._shares.append(place.share)
        if self.course.ends_unit(step):
            self.step = step  # the log's line belongs to it
            self._serve(place.round)
        return taken

    def _trained(self) -> dict[str, Tensor]:
        """Returns copies of everything that a client trains."""
        return {name: p.detach().clone() for name, p in self.stepper.parameters.items()}

    def _send(self, tensors: dict[str, Tensor]) -> None:
        """Puts weights into the model and clears the optimizer's moments."""
        with torch.no_grad():
            for name, p in self.stepper.parameters.items():
                p.copy_(tensors[name])
        self.stepper.optimizer.state.clear()

    def _serve(self, at: int) -> None:
        """Ends a round: puts the server's new global weights into the model, and logs the round."""
        s = self.setup
        # No average, and no decomposition, of values that are not finite.
        self.stepper.check_finite(self.step)
        found: Any = None
        if s.world.main:
            new, about = s.guard.aggregate(self._uploads, self._shares, self._global)
            found = {name: t.cpu() for name, t in new.items()}, about
        # One process's values for all: another processor's last bits may differ.
        new, about = s.world.broadcast(found)
        self._send(new)
        self._global, self._uploads = {}, []
        self._log({"split": "server", "round": at + 1, **about})
