"""Several processes on one run, started by torchrun: each takes a share of every batch.

Adapters and head are a few megabytes, so their gradients travel as one flat sum after backward. Nothing
wraps the model, and a component that was removed is simply no longer there to be sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """This process among all: `rank` of `size`, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process keeps the record."""
        return self.rank == 0


def start(device: str) -> World:
    """Joins the processes that torchrun started; a world of one without it. `device`: auto, cpu or cuda[:n]."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if size == 1:
        return World(0, 1, torch.device(device))
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return World(dist.get_rank(), size, torch.device(device))


def stop(world: World) -> None:
    """Leaves the group."""
    if world.size > 1 and dist.is_initialized():
        dist.destroy_process_group()


def sum_gradients(world: World, parameters: Iterable[nn.Parameter]) -> None:
    """Adds up gradients over processes, in place. A process whose share was empty counts as zeros."""
    if world.size == 1:
        return
    some = [p for p in parameters if p.numel()]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in some])
    dist.all_reduce(flat)
    for p, part in zip(some, flat.split([p.numel() for p in some]), strict=True):
        p.grad = part.view_as(p)


def sum_scalar(world: World, value: Tensor) -> Tensor:
    """The sum of a scalar over processes."""
    if world.size > 1:
        dist.all_reduce(value)
    return value


def gather(world: World, value: Any) -> list[Any]:
    """Everyone's `value`, in order of rank, on every process."""
    if world.size == 1:
        return [value]
    everyone: list[Any] = [None] * world.size
    dist.all_gather_object(everyone, value)
    return everyone


def broadcast(world: World, value: Any) -> Any:
    """The main process's `value`, on every process."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
