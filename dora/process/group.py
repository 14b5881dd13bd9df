"""The processes that train one run together, as the environment tells of them."""

from __future__ import annotations

import os


def size() -> int:
    """Returns the number of this run's processes: 1, or what torchrun or a cluster's job started."""
    # A job of submitit's has no variables of torchrun's; without these each task would be a run.
    if "SUBMITIT_EXECUTOR" in os.environ and "WORLD_SIZE" not in os.environ:
        from submitit.helpers import TorchDistributedEnvironment

        # Every task of the job (tasks_per_node) is one process. Its GPU is chosen by LOCAL_RANK, so
        # submitit must not hide the others.
        if (tasks := TorchDistributedEnvironment()).world_size > 1:
            tasks.export(set_cuda_visible_devices=False)
    return int(os.environ.get("WORLD_SIZE", "1"))
