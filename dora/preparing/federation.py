"""A federated run on one machine: who trains on which rows in which step, as functions of the step.

A run is a number of rounds. In each round some clients are selected. One after the other starts
from the global weights and takes `local_steps` optimizer steps on its own rows. Then the server
makes new global weights of theirs. A run sees at most as many examples as a run of any other method
with as many steps: a client's last batch of an epoch may be small.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dora.configuration.groups import FedConfig
from dora.data.partition import classes_of, partition
from dora.plain import counted


@dataclass(frozen=True)
class ClientStep:
    """Where a step lies: in which round (from 0), at which of its clients, and how far in there.

    `client`: its number. `local`: the client's step in this round, from 0. `share`: the client's
    part of the selected clients' rows, its weight in the average.
    """

    round: int
    slot: int
    client: int
    local: int
    share: float


def steps_a_round(fed: FedConfig, able: int) -> int:
    """Returns the steps of one round's clients, selected among `able` that have rows."""
    return max(1, round(fed.fraction * able)) * fed.local_steps


@dataclass(frozen=True)
class Federation:
    """The clients of a run, the rounds, and the steps of each client in a round.

    `rows`: (n,) per client, the numbers of its training rows, ascending. `selected`: the number of
    clients of a round.
    """

    rows: tuple[np.ndarray, ...]
    rounds: int
    selected: int
    local_steps: int
    seed: int

    @staticmethod
    def of(fed: FedConfig, labels: np.ndarray, seed: int, steps: int) -> Federation:
        """Returns the federation of a run of about `steps` steps, rounded down to whole rounds.

        Raises ValueError if that leaves no round.
        """
        rows = partition(labels, fed.clients, fed.partition, fed.alpha, seed)
        able = sum(len(part) > 0 for part in rows)
        a_round = steps_a_round(fed, able)
        selected = a_round // fed.local_steps
        rounds = fed.rounds or steps // a_round
        if not rounds:
            raise ValueError(
                f"a round of {selected} clients with fed.local_steps={fed.local_steps} has {a_round} "
                f"steps, and the run has {steps}: train longer, or lower fed.local_steps, "
                "fed.fraction or fed.clients"
            )
        return Federation(tuple(rows), rounds, selected, fed.local_steps, seed)

    @property
    def steps_a_round(self) -> int:
        """The steps of all selected clients in one round."""
        return self.selected * self.local_steps

    @property
    def total_steps(self) -> int:
        """The steps of the whole run."""
        return self.rounds * self.steps_a_round

    def schedule_steps(self, restart: str) -> int:
        """Returns the steps of a client that one schedule of the rate spans.

        `restart`: "run" for its steps in all rounds, "round" for those of one.
        """
        return self.local_steps if restart == "round" else self.rounds * self.local_steps

    @cached_property
    def chosen(self) -> list[list[int]]:
        """The numbers of each round's clients, ascending; a client without rows is never one."""
        able = np.array([k for k, rows in enumerate(self.rows) if len(rows)])
        return [
            np.sort(able[self._random(t).choice(len(able), self.selected, replace=False)]).tolist()
            for t in range(self.rounds)
        ]

    @cached_property
    def _rounds_before(self) -> list[dict[int, int]]:
        """For each round the number of earlier rounds in which each of its clients took part."""
        counts: dict[int, int] = {}
        found = []
        for clients in self.chosen:
            found.append({client: counts.get(client, 0) for client in clients})
            for client in clients:
                counts[client] = counts.get(client, 0) + 1
        return found

    def client_step(self, step: int) -> ClientStep:
        """Returns where a step, counted from 1, lies."""
        at, inside = divmod(step - 1, self.steps_a_round)
        slot, local = divmod(inside, self.local_steps)
        clients = self.chosen[at]
        client = clients[slot]
        held = sum(len(self.rows[k]) for k in clients)
        return ClientStep(at, slot, client, local, len(self.rows[client]) / held)

    def step_of_client(self, at: ClientStep) -> int:
        """Returns the number, from 0, of a step among all that its client takes in the run."""
        before = self._rounds_before[at.round][at.client]
        return before * self.local_steps + at.local

    def describe(self) -> str:
        """Returns the rounds in one line, which is shown before training."""
        sizes = [len(rows) for rows in self.rows]
        return (
            f"{counted(self.rounds, 'round')} of {self.selected} of {len(sizes)} clients "
            f"({min(sizes):,} to {max(sizes):,} rows), {counted(self.local_steps, 'step')} each"
        )

    def until(self, step: int) -> Federation:
        """Returns the rounds up to this step, where a run may end before the last one."""
        return replace(self, rounds=step // self.steps_a_round)

    def about(self, labels: np.ndarray, examples: int, sent: int, frozen: int) -> dict[str, object]:
        """Returns what the record says of clients, rounds, examples and communication.

        labels: (rows,), of the training rows. examples: the rows of all steps. sent: the values,
        head included, that a client sends to the server in a round; the server sends it as many.
        frozen: the values that each client is sent once.
        """
        classes = classes_of(labels)
        numbers = [int(one) for one in np.unique(classes)]
        clients = [
            {
                "rows": len(rows),
                "classes": {str(one): int((classes[rows] == one).sum()) for one in numbers},
            }
            for rows in self.rows
        ]
        each_way = sent * self.selected
        once = frozen * len({client for clients in self.chosen for client in clients})
        total = 2 * each_way * self.rounds + once
        return {
            "clients": clients,
            "rounds": self.rounds,
            "selected": self.selected,
            "local_steps": self.local_steps,
            "sequential_steps": self.rounds * self.local_steps,
            "examples": examples,
            "values_up_a_round": each_way,
            "values_down_a_round": each_way,
            "values_down_once": once,
            "values_in_all": total,
            "bytes_in_all": 4 * total,  # of 32 bits
        }

    def _random(self, at: int) -> np.random.Generator:
        """Returns the generator that selects the clients of round `at`."""
        # The constant parts its draws from `partition`'s, which deals rows by the same seed.
        return np.random.default_rng([self.seed, 0x5E1, at])
