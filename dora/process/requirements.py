"""Checks of a run's machine and shell: device, place to write, trackers, processes."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlsplit

WANDB = ("off", "offline", "online")


def problems(device: str, wandb: str, tensorboard: bool, results: str) -> list[str]:
    """Lists every problem with these four settings and with the environment's process group.

    Each argument is the setting of its name. An empty list means no problem.
    """
    return [
        *_device_problems(device),
        *_wandb_problems(wandb),
        *_tensorboard_problems(tensorboard),
        *folder_problems("results=", Path(results)),
        *_process_problems(os.environ),
    ]


def _device_problems(device: str) -> list[str]:
    # Only the spelling: asking CUDA whether the GPU exists would import torch, which takes seconds.
    known = device in ("auto", "cpu", "cuda") or (
        device.startswith("cuda:") and device[5:].isdigit()
    )
    return [] if known else [f"device={device} must be auto, cpu, cuda or cuda:N"]


def folder_problems(key: str, folder: Path) -> list[str]:
    """Lists the problem of a folder that cannot be written to, nor made in its nearest parent.

    `key`: what the message begins with, such as `results=`.
    """
    whole = folder.absolute()
    # os.path.exists is False for a folder that one may not look into; Path.exists raises there.
    parent = next(p for p in (whole, *whole.parents) if os.path.exists(p))
    writable = parent.is_dir() and os.access(parent, os.W_OK)
    return [] if writable else [f"{key}{folder}: {parent} cannot be written to"]


def _wandb_problems(wandb: str) -> list[str]:
    if wandb not in WANDB:
        return [f"wandb={wandb} must be one of {', '.join(WANDB)}"]
    # find_spec looks for the package without importing it, which takes a second.
    if wandb != "off" and find_spec("wandb") is None:
        return [f"wandb={wandb} needs its package: pip install wandb"]
    if wandb == "online" and not _has_wandb_key():
        return [
            "wandb=online finds no API key: run `wandb login`, set WANDB_API_KEY, "
            "or write wandb=offline"
        ]
    return []


def _tensorboard_problems(tensorboard: bool) -> list[str]:
    if not tensorboard or find_spec("tensorboard") is not None:
        return []
    return [
        "tensorboard=true needs its package, which is optional: pip install tensorboard, or write "
        "tensorboard=false"
    ]


# Cached: a sweep checks each of its runs in one process.
@functools.lru_cache(maxsize=1)
def _has_wandb_key() -> bool:
    """Returns True where wandb would find an API key.

    Looks in the environment, in wandb's settings and in ~/.netrc, as wandb does.
    """
    # The environment first: a cluster's jobs have the key there, and importing wandb takes 1 s.
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb

    settings = wandb.setup().settings
    try:
        known = netrc(os.environ.get("NETRC")).hosts
    except (OSError, NetrcParseError):
        known = {}
    return bool(settings.api_key) or not known.keys().isdisjoint(
        {urlsplit(settings.base_url).netloc, "api.wandb.ai"}
    )


def sweep_problems(env: Mapping[str, str]) -> list[str]:
    """Says that a sweep cannot be one of several processes: each would plan and begin its runs."""
    size = env.get("WORLD_SIZE", "")
    if not size.isdigit() or int(size) < 2:  # what is no number is each run's own problem
        return []
    return [
        f"WORLD_SIZE={size} in the environment makes this one of several processes, which train one "
        "run together: a sweep or a search begins by itself, with hydra/launcher=slurm "
        "hydra.launcher.tasks_per_node=2 for several in each run; unset WORLD_SIZE where it is left "
        "from another job"
    ]


def _process_problems(env: Mapping[str, str]) -> list[str]:
    """Checks the variables that torchrun sets for a group of processes.

    Variables that another job has left in the environment would make this run wait for processes
    that nobody starts.
    """
    if "WORLD_SIZE" not in env:
        return []
    size, rank = env["WORLD_SIZE"], env.get("RANK")
    way_out = (
        "unset WORLD_SIZE for a run by itself; torchrun sets all of these for several processes"
    )
    if not size.isdigit() or int(size) < 1:
        return [
            f"WORLD_SIZE={size} in the environment must be a number of processes from 1; {way_out}"
        ]
    if rank is not None and not (rank.isdigit() and int(rank) < int(size)):
        return [
            f"RANK={rank} in the environment must lie between 0 and {int(size) - 1}, "
            f"WORLD_SIZE being {size}; {way_out}"
        ]
    # A group of one process needs no address, so a lone WORLD_SIZE=1 does no harm.
    absent = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not env.get(name)]
    if int(size) > 1 and absent:
        return [f"WORLD_SIZE={size} is in the environment without {', '.join(absent)}; {way_out}"]
    return []
