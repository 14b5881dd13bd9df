"""What a run needs of its machine and shell: a device, a place to write, W&B's key, processes."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlsplit

WANDB = ("off", "offline", "online")


def problems(device: str, wandb: str, results: str) -> list[str]:
    """Names every problem with the settings of these names, and with the processes that a launcher started."""
    return [
        *_of_device(device),
        *_of_wandb(wandb),
        *_of_results(results),
        *_of_processes(os.environ),
    ]


def _of_device(device: str) -> list[str]:
    known = device in ("auto", "cpu", "cuda") or (
        device.startswith("cuda:") and device[5:].isdigit()
    )
    return [] if known else [f"device={device} must be auto, cpu, cuda or cuda:N"]


def _of_results(results: str) -> list[str]:
    """Whether the folder, or the one in which it would be made, can be written to."""
    folder = Path(results).absolute()
    parent = next(p for p in (folder, *folder.parents) if os.path.exists(p))
    writable = parent.is_dir() and os.access(parent, os.W_OK)
    return [] if writable else [f"results={results}: {parent} cannot be written to"]


def _of_wandb(wandb: str) -> list[str]:
    if wandb not in WANDB:
        return [f"wandb={wandb} must be one of {', '.join(WANDB)}"]
    if wandb != "off" and find_spec("wandb") is None:
        return [f"wandb={wandb} needs its package: pip install wandb"]
    if wandb == "online" and not _has_wandb_key():
        return [
            "wandb=online finds no API key: run `wandb login`, set WANDB_API_KEY, or write wandb=offline"
        ]
    return []


@functools.lru_cache(maxsize=1)
def _has_wandb_key() -> bool:
    """Whether wandb would find an API key: in the environment, in its settings, or in ~/.netrc.

    Importing wandb takes a second, so that the environment, which a cluster's jobs use, is asked first.
    """
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


def _of_processes(env: Mapping[str, str]) -> list[str]:
    """What another job left in the environment would have this one wait for processes that nobody starts."""
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
            f"RANK={rank} in the environment must lie between 0 and {int(size) - 1}, WORLD_SIZE being {size}; {way_out}"
        ]
    absent = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not env.get(name)]
    if int(size) > 1 and absent:
        return [f"WORLD_SIZE={size} is in the environment without {', '.join(absent)}; {way_out}"]
    return []
