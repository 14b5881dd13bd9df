"""Several processes on one run, started by torchrun: each takes a share of every batch.

Adapters and head are a few megabytes, so their gradients travel as one flat sum after backward.
Nothing wraps the model, and a component that was removed is simply no longer there to be sent.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import itertools
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dora.errors import Stopped
from dora.process.signals import outside


@dataclass(frozen=True)
class World:
    """This process among all: `rank` of `size`, and the device it computes on. `claim`: see
    `least_used`.
    """

    rank: int
    size: int
    device: torch.device
    claim: IO[bytes] | None = None

    @property
    def main(self) -> bool:
        """Whether this process keeps the record."""
        return self.rank == 0


def start(device: str) -> World:
    """Joins the processes that torchrun or a cluster's job started; a world of one without them.
    Raises Stopped where whom they meet at is no longer there.

    `device`: auto, cpu or cuda[:n]. Of several GPUs a run by itself takes the one that the fewest
    other runs on this machine are on.
    """
    if "SUBMITIT_EXECUTOR" in os.environ and "WORLD_SIZE" not in os.environ:
        from submitit.helpers import TorchDistributedEnvironment

        # Every task of the job (tasks_per_node) is one process. Which GPU it takes is decided
        # below.
        if (tasks := TorchDistributedEnvironment()).world_size > 1:
            tasks.export(set_cuda_visible_devices=False)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if size == 1:
        claim = None
        if device == "cuda" and (n := torch.cuda.device_count()) > 1:
            names = [str(torch.cuda.get_device_properties(i).uuid) for i in range(n)]
            gpu, claim = least_used(
                names, Path(tempfile.gettempdir()) / f"dora-gpus-{getpass.getuser()}"
            )
            device = f"cuda:{gpu}"
        return World(0, 1, torch.device(device), claim)
    if device == "cuda":
        # A cluster may show each process its own GPU alone, which then is the first.
        device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        try:
            with outside.at_once(), _saying_what_is_waited_for():
                dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        except (
            dist.DistNetworkError,
            dist.DistStoreError,
        ) as e:  # such as after torchrun was killed
            why = str(e).splitlines()[0]
            raise Stopped(
                f"before the run's processes had met ({why}); the same command takes it up"
            ) from e
    return World(dist.get_rank(), size, torch.device(device))


@contextlib.contextmanager
def _saying_what_is_waited_for() -> Iterator[None]:
    """Says after 10 s for whom this process waits: the variables may be left over from another job."""
    size, rank, *place = (
        os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")
    )
    text = (
        f"process {rank} of {size} waits for the others at {':'.join(place)}; unset WORLD_SIZE and RANK for a run by "
        "itself"
    )
    timer = threading.Timer(10, print, [text], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def least_used(names: Sequence[str], folder: Path) -> tuple[int, IO[bytes]]:
    """(index, claim) of the device on which the fewest processes have a claim, the first of equal
    ones.

    A claim is a locked file in `folder`, so it ends with its process at the latest.
    """
    folder.mkdir(exist_ok=True)
    for turn, (index, name) in (
        (turn, device) for turn in itertools.count() for device in enumerate(names)
    ):
        claim = (folder / f"{name}.{turn}").open("ab")
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return index, claim
        except BlockingIOError:
            claim.close()
    raise AssertionError("counting has no end")


def stop(world: World) -> None:
    """Leaves the group, and the GPU to others."""
    if world.claim is not None:
        world.claim.close()
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
