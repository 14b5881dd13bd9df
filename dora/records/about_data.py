"""Whether a run's rows are GLUE's own, for tools that say what a score was measured on."""

from __future__ import annotations

from collections.abc import Mapping

from dora.data.tasks import TASKS, Task
from dora.records.schema import Run

# Relative. QQP's official files and the hub's differ by a few rows, which readers drop or keep.
_ALIKE = 1e-3


def is_glue(run: Run) -> bool:
    """Tells whether the run's source has as many rows as GLUE publishes for the task.

    Only training and first development rows are counted.
    """
    c = run["config"]
    return c["data"] != "mini" and not other_sizes(TASKS[c["task"]], run["data"]["rows"])


def other_sizes(task: Task, rows: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Returns {split: (rows there, rows of GLUE)} for train and dev where the two differ.

    A split that `rows` does not name is passed over.
    """
    return {
        split: (rows[split], size)
        for split, size in zip(("train", "dev"), task.sizes, strict=True)
        if split in rows and abs(rows[split] - size) > _ALIKE * size
    }
