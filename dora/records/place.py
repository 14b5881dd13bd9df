"""The place of a run: the seven folders under results/runs that name it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

RUNS = "runs"  # the folder of a results folder in which its runs lie


class Row(NamedTuple):
    """A row of a table, a method and a budget, each as its folder is named."""

    method: str
    budget: str


class Place(NamedTuple):
    """The folders that name a run, from results/runs inwards.

    `key`: eight hex digits, a hash of the settings that no other folder tells. `seed`: as `s1`.
    """

    data: str
    task: str
    model: str
    method: str
    budget: str
    key: str
    seed: str

    @property
    def row(self) -> Row:
        """The row of a table that the run belongs to."""
        return Row(self.method, self.budget)


def has_place(folder: Path) -> bool:
    """Tells whether a directory lies where runs lie: seven folders below one named `runs`."""
    parts = folder.absolute().parts
    return len(parts) > len(Place._fields) and parts[-len(Place._fields) - 1] == RUNS


def place_of(folder: Path) -> Place:
    """Returns the place of a run's directory. Raises TypeError for a path of fewer folders."""
    return Place(*folder.absolute().parts[-len(Place._fields) :])
