"""The course of a run: each step's rows and learning rate, both functions of the step.

Nothing about them is part of a checkpoint.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from dora.configuration.config import Config
from dora.data.order import order
from dora.methods.schedule import Schedule
from dora.methods.seeds import seed_of
from dora.preparing.federation import Federation


class Course:
    """The course of a run that trains on all rows.

    `lengths`: of the training rows in tokens, (rows,). `unit`: the number of steps that belong
    together, after which alone a run may be evaluated, saved and resumed.
    """

    unit = 1

    def __init__(self, config: Config, lengths: np.ndarray, total_steps: int) -> None:
        self.config, self.lengths, self.total_steps = config, lengths, total_steps
        self.schedule = Schedule(config.schedule, config.warmup)
        self.steps_an_epoch = math.ceil(len(lengths) / config.batch_size)
        # The last epoch asked for and its batches, kept because drawing them takes longer than a
        # step. A resumed run draws them again.
        self._epoch: tuple[object, list[np.ndarray]] = (None, [])

    def rows(self, step: int) -> np.ndarray:
        """Returns the training rows of step `step` (from 1), over all processes."""
        epoch, at = divmod(step - 1, self.steps_an_epoch)
        return self._batches(self.config.seed, epoch, self.lengths)[at]

    def share(self, step: int) -> float:
        """Returns the learning rate of step `step` (from 1) as a share of its peak."""
        return self.schedule.share(step, self.total_steps)

    def ends_unit(self, step: int) -> bool:
        """Tells whether this step is the last of its unit."""
        return step % self.unit == 0

    def crosses(self, step: int, every: int) -> bool:
        """Tells whether this step ends the first unit at or behind a multiple of `every`."""
        return self.ends_unit(step) and step // every > (step - self.unit) // every

    def _batches(self, seed: int, epoch: int, lengths: np.ndarray) -> list[np.ndarray]:
        """Returns an epoch's batches, as places among the rows that have these lengths."""
        if self._epoch[0] != (seed, epoch):
            c = self.config
            self._epoch = (seed, epoch), order(seed, epoch, lengths, c.batch_size, c.batching)
        return self._epoch[1]


class FederatedCourse(Course):
    """The course of a federated run: each step is one client's."""

    def __init__(self, config: Config, lengths: np.ndarray, federation: Federation) -> None:
        super().__init__(config, lengths, federation.total_steps)
        self.federation = federation
        self.unit = federation.steps_a_round

    def rows(self, step: int) -> np.ndarray:
        """Returns the rows of step `step` (from 1): the next batch of its client."""
        place = self.federation.client_step(step)
        taken = self.federation.step_of_client(place)
        epoch, at = divmod(taken, self._steps_an_epoch_of(place.client))
        own = self.federation.rows[place.client]
        return own[self._batches_of(place.client, epoch)[at]]

    def examples(self, step: int) -> int:
        """Returns the number of rows of all steps up to `step`, a row as often as it is trained on.

        `step`: the end of a round.
        """
        rounds = self.federation.until(step)
        taken = Counter(client for clients in rounds.chosen for client in clients)
        total = 0
        for client, times in taken.items():
            steps = times * rounds.local_steps
            epochs, rest = divmod(steps, self._steps_an_epoch_of(client))
            total += epochs * len(rounds.rows[client])
            # Summed, since an epoch's one small batch may stand anywhere in its order.
            total += sum(map(len, self._batches_of(client, epochs)[:rest]))
        return total

    def _steps_an_epoch_of(self, client: int) -> int:
        return math.ceil(len(self.federation.rows[client]) / self.config.batch_size)

    def _batches_of(self, client: int, epoch: int) -> list[np.ndarray]:
        """Returns the batches of a client's epoch, as places among its rows."""
        seed = seed_of(self.config.seed, "client", client)
        return self._batches(seed, epoch, self.lengths[self.federation.rows[client]])

    def share(self, step: int) -> float:
        """Returns the rate of step `step` (from 1) as a share of its peak, equal for all clients.

        The schedule runs over the steps of one client in all rounds, or anew in each round.
        """
        place, federation = self.federation.client_step(step), self.federation
        length = federation.schedule_steps(self.config.fed.restart)
        # A warm-up in steps counts the whole run's steps; a client, or its part of a round, has a
        # share of them.
        schedule = self.schedule.of_part(length, self.total_steps)
        behind = place.round * federation.local_steps + place.local
        return schedule.share(behind % length + 1, length)
