"""Several processes on one run, started by torchrun: each takes a share of every batch.

Adapters and head are a few megabytes, so their gradients are summed as one flat tensor after
backward. Nothing wraps the model, as DistributedDataParallel would: its buckets hold on to the
components that were removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
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
from dora.process import group
from dora.process.signals import outside

_FAILURE = "failure"  # where a process leaves its reason
_groups = itertools.count()  # that this process has joined; all of them join as many


@dataclass(frozen=True)
class World:
    """This process among all of the run: `rank` of `size`, and the device it computes on.

    `claim`: the locked file that marks this run's GPU as in use, see `least_used`.
    """

    rank: int
    size: int
    device: torch.device
    claim: IO[bytes] | None = None

    @property
    def main(self) -> bool:
        """True in the one process that keeps the record."""
        return self.rank == 0

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sums gradients over processes, in place.

        A process without rows in this step has no gradients, and counts as zeros.
        """
        if self.size == 1:
            return
        # Matrices pruned to rank 0 have no entries. Every process must flatten the same parameters
        # in the same order, with or without gradients.
        some = [p for p in parameters if p.numel()]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in some]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        for p, part in zip(some, flat.split([p.numel() for p in some]), strict=True):
            p.grad = part.view_as(p)

    def sum_scalar(self, value: Tensor) -> Tensor:
        """Sums a scalar over processes, in place, and returns it."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def gather(self, value: Any) -> list[Any]:
        """Returns every process's `value`, in order of rank, on every process."""
        if self.size == 1:
            return [value]
        everyone: list[Any] = [None] * self.size
        dist.all_gather_object(everyone, value)
        return everyone

    def broadcast(self, value: Any) -> Any:
        """Returns the main process's `value` on every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def start(device: str) -> World:
    """Joins the processes that torchrun or a cluster's job started; returns a world of one without.

    `device`: auto, cpu or cuda[:n]. On a machine with several GPUs a run by itself takes the one
    that the fewest other runs use. Raises Stopped if the process at which they meet has gone.
    """
    size = group.size()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if size == 1:
        claim = None
        if device == "cuda" and (n := torch.cuda.device_count()) > 1:
            names = [str(torch.cuda.get_device_properties(i).uuid) for i in range(n)]
            # The user's number: in a container it may have no name.
            gpu, claim = least_used(names, Path(tempfile.gettempdir(), f"dora-gpus-{os.getuid()}"))
            device = f"cuda:{gpu}"
        return World(0, 1, torch.device(device), claim)
    if device == "cuda":
        # Modulo: a cluster may show each process its own GPU alone, which is then number 0.
        device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        try:
            # A signal ends the process here at once: nothing is trained yet, and the wait for the
            # others, inside C++, could not be left otherwise.
            with outside.at_once(), _saying_what_is_waited_for():
                dist.init_process_group(
                    "nccl" if device.startswith("cuda") else "gloo",
                    # A prefix for each group, which would find an earlier one's addresses.
                    store=dist.PrefixStore(f"group-{next(_groups)}", _meeting_place()),
                    rank=int(os.environ["RANK"]),
                    world_size=size,
                )
        # This happens after torchrun was killed, for one: the run is resumable, not failed.
        except (dist.DistNetworkError, dist.DistStoreError) as e:
            why = str(e).splitlines()[0]
            raise Stopped(
                f"before the run's processes had met ({why}); the same command takes it up"
            ) from e
    return World(dist.get_rank(), size, torch.device(device))


@functools.cache
def _meeting_place() -> dist.Store:
    """Returns the store at which this start's processes meet; it outlives their groups.

    Torchrun's own outlives its restarts, too.
    """
    store, *_ = next(dist.rendezvous("env://"))
    return dist.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


@contextlib.contextmanager
def _saying_what_is_waited_for() -> Iterator[None]:
    """Says after 10 s which processes this one waits for, while the context is open.

    WORLD_SIZE and RANK may be left over in the environment from another job.
    """
    size, rank, *place = (
        os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")
    )
    text = (
        f"process {rank} of {size} waits for the others at {':'.join(place)}; "
        "unset WORLD_SIZE and RANK for a run by itself"
    )
    timer = threading.Timer(10, print, [text], {"file": sys.stderr, "flush": True})
    timer.daemon = True  # or a process that is ended would first wait for the timer
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def least_used(names: Sequence[str], folder: Path) -> tuple[int, IO[bytes]]:
    """Returns (index, claim) of the device with the fewest claims, the first one among equals.

    A claim is a locked file in `folder`, so it ends with its process at the latest. `names`:
    identifies each device across processes, whatever number it has in theirs.
    """
    # Round by round: `turn` is the number of claims a device must have before it is claimed again.
    folder.mkdir(exist_ok=True)
    turn = 0
    while True:
        for index, name in enumerate(names):
            claim = (folder / f"{name}.{turn}").open("ab")
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return index, claim
            except BlockingIOError:
                claim.close()
        turn += 1


def stop(world: World, failed: bool = False) -> None:
    """Leaves the process group, and gives up the claim on the GPU.

    A process that `failed` stays in the group until it ends, or until `dora.train` returns: the
    others end as soon as it leaves, torchrun then sends it SIGTERM, and a command would exit as one
    that was stopped.
    """
    if world.claim is not None:
        world.claim.close()
    if world.size > 1 and dist.is_initialized() and not failed:
        dist.destroy_process_group()


def tell_failure(world: World, reason: str) -> None:
    """Leaves for the main process why this one fails, where they have met; it may be gone."""
    with contextlib.suppress(dist.DistError):
        _meeting_place().set(_FAILURE, f"process {world.rank} of {world.size}: {reason}")


def told_failure() -> str | None:
    """Returns the reason that another process has left with `tell_failure`, None without any.

    It is told once, since the place outlives a run.
    """
    with contextlib.suppress(dist.DistError):
        place = _meeting_place()
        if place.check([_FAILURE]):
            told = place.get(_FAILURE).decode()
            place.delete_key(_FAILURE)
            return told
    return None
