"""Whether a run's rows are GLUE's own, for tools that say what a score was measured on."""

from __future__ import annotations

from collections.abc import Mapping

from dora.data.tasks import AX, TASKS, Task, labelled
from dora.records.schema import Run

# Relative, by task. QQP's official files and the hub's differ by a few rows, which readers drop or
# keep. Every other task has one number of rows: a file with one less was cut short or filtered.
_ALIKE = {"qqp": 1e-3}


def is_glue(run: Run) -> bool:
    """Tells whether the run's source has as many rows as GLUE publishes for the task.

    Only splits with labels are counted: no score rests on the others.
    """
    c = run["config"]
    other = other_sizes(TASKS[c["task"]], run["data"]["rows"])
    return c["data"] != "mini" and not any(map(labelled, other))


def other_sizes(task: Task, rows: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Returns {split: (rows there, rows of GLUE)} where the two differ, AX among MNLI's splits.

    A split that `rows` does not name is passed over.
    """
    sizes, alike = task.sizes | AX.sizes, _ALIKE.get(task.name, 0.0)
    # GLUE's server takes a test file only if it has every row.
    most = {split: alike * size if labelled(split) else 0 for split, size in sizes.items()}
    return {
        split: (rows[split], size)
        for split, size in sizes.items()
        if split in rows and abs(rows[split] - size) > most[split]
    }
