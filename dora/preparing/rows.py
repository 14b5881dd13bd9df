"""A run's rows: read from their source, and split into rows to train on and rows held out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dora.configuration.config import Config
from dora.configuration.groups import DataConfig
from dora.data import places, sources
from dora.data.hub import fetch_hub
from dora.data.mini import mini
from dora.data.parquet import GLUE_REPO, GLUE_REVISION
from dora.data.tasks import AX, TASKS, Rows, Task
from dora.errors import UserError

# select=heldout holds out one training row in ten, at most 2,000.
HELDOUT_SHARE, HELDOUT_MOST = 10, 2_000


class Read(NamedTuple):
    """The rows of a task as they were read.

    `splits`: rows by split; MNLI's have AX among them if the source holds it. `revision`: the commit
    of the hub's repository, None for other data. `fingerprint`: names the rows by their content,
    without AX, so that a run keeps its directory if AX is added later.
    """

    splits: dict[str, Rows]
    revision: str | None
    fingerprint: str


def read_rows(data: DataConfig, task: Task) -> Read:
    """Reads the task's rows from the source that `data` names."""
    state = None if data.dir is None else places.state(task, Path(data.dir))
    return _read_rows(data.source, data.dir, task.name, state)


# The last data read stay in memory: consecutive runs of a sweep mostly want the same.
@functools.lru_cache(maxsize=1)
def _read_rows(source: str, place: str | None, task_name: str, state: object) -> Read:
    """Reads as `read_rows` does, from plain values, which the cache can hash.

    `state`: of the files in `place`, which may change between two runs of a notebook.
    """
    del state  # part of the cache's key alone
    task = TASKS[task_name]
    read, revision = _source(source, place, task)
    splits = read(task)
    fingerprint = sources.fingerprint(splits)  # before AX is added
    if task.name == "mnli":
        splits |= read(AX)
    return Read(splits, revision, fingerprint)


def _source(
    source: str, place: str | None, task: Task
) -> tuple[Callable[[Task], dict[str, Rows]], str | None]:
    """Returns a function that reads a task's splits, and the revision of a hub's data.

    The hub's files are fetched here, all that the run needs at once.
    """
    if source == "mini":
        return mini, None
    if place:
        read = sources.read_dir if source == "dir" else sources.read_hub
        return functools.partial(read, folder=Path(place)), None
    wanted = [f"{task.name}/{split}-*" for split in task.splits.values()]
    wanted += ["ax/test-*"] if task.name == "mnli" else []
    instead = "data=dir data.dir=FOLDER (an official GLUE download), or data=mini (embedded)"
    folder = fetch_hub(GLUE_REPO, GLUE_REVISION, wanted, "dataset", instead)
    return functools.partial(sources.read_hub, folder=folder), GLUE_REVISION


def split_rows(n: int, limit: int | None, select: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns (rows to train on, rows held out to select on or None), equal for every seed.

    Both are ascending row numbers of the training split. Raises UserError if no row would be held
    out.
    """
    # Seed 0 always: runs of different seeds must train on, and select by, the same rows.
    shuffled = np.random.default_rng(0).permutation(n)
    heldout = None
    if select == "heldout":
        size = min(n // HELDOUT_SHARE, HELDOUT_MOST)
        if not size:
            raise UserError(
                f"select=heldout needs at least {HELDOUT_SHARE} training rows, of which it holds "
                f"out one in {HELDOUT_SHARE} before limit_train counts, and there are {n}: "
                "use select=dev"
            )
        heldout, shuffled = np.sort(shuffled[:size]), shuffled[size:]
    return np.sort(shuffled[:limit]), heldout


def heldout_problems(config: Config, train: Rows, heldout: np.ndarray | None) -> list[str]:
    """Returns a message if a correlation is undefined on the rows held out.

    A correlation needs two different labels.
    """
    metric = config.glue_task.metrics[0]
    if heldout is None or train.label is None or metric not in ("matthews_correlation", "pearson"):
        return []
    if len(np.unique(train.label[heldout])) > 1:
        return []
    return [
        f"select=heldout holds out {len(heldout)} rows here, whose labels are all alike: "
        f"{config.task.name}'s {metric} cannot be had on them; use select=dev"
    ]
