"""A block of code that leaves the process as it found it."""

from __future__ import annotations

import copy
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton

from dora.package import PLUGINS


@contextmanager
def restored() -> Iterator[None]:
    """Puts back, at the end, whatever training changes in a process.

    These are the states of random generators, threads, determinism, warnings, environment,
    sys.path, the process group and Hydra; inside, Hydra is not set up. Signal handlers are put back
    by the run itself. The C library keeps freed memory from then on (`dora.process.memory`).
    """
    environment, path = dict(os.environ), list(sys.path)
    draws = random.getstate(), np.random.get_state()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    in_group = dist.is_initialized()
    threads = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    sys.path.append(str(PLUGINS))  # the sweeper that conf/config.yaml names
    Plugins.instance()  # stores its plugins' settings once in a process, for good
    holders = {kind: Singleton._instances.get(kind) for kind in (GlobalHydra, HydraConfig)}
    stored = ConfigStore.instance().repo
    # With this workspace cuBLAS gives the same bits each time; read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=gpus):
            # Replaced, not changed: an application of Hydra's may go on with them.
            for kind in holders:
                Singleton._instances.pop(kind, None)
            ConfigStore.instance().repo = copy.deepcopy(stored)
            yield
    finally:
        if dist.is_initialized() and not in_group:
            dist.destroy_process_group()
        for kind, holder in holders.items():
            Singleton._instances.pop(kind, None)
            if holder is not None:
                Singleton._instances[kind] = holder
        ConfigStore.instance().repo = stored
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)
        random.setstate(draws[0])
        np.random.set_state(draws[1])
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
