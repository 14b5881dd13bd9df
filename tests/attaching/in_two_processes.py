"""Trains an attached adapter in one of several processes, wrapped by DistributedDataParallel.

    python in_two_processes.py FOLDER

Each process takes its part of every batch. The first one writes its state to FOLDER/together.pt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from dora.errors import UserError
from own_models import STEPS, attach, batch, build, rows


def main(folder: Path) -> None:
    """Trains to the end, after an adapter that would remove components was refused."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    model, held = build("mlp"), rows("mlp")
    adapter = attach(model, dropout=0.0, remove=False)
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    for step in range(1, STEPS + 1):
        mine = {name: values[rank::size] for name, values in batch(held, step).items()}
        loss = wrapped(**mine)["loss"] + adapter.penalty()
        loss.backward()
        optimizer.step()
        adapter.step()
        optimizer.zero_grad()
    if rank == 0:
        torch.save(adapter.state_dict(), folder / "together.pt")
    refused = attach(build("mlp"), target=["first"])
    refused.penalty()
    torch.optim.SGD(refused.parameters(), lr=0.1).step()
    with pytest.raises(UserError, match="attach with remove=False"):
        refused.step()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
