"""Where a run comes from: command, machine, versions and commit."""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from dora.package import CHECKOUT
from dora.process.command import typed

# The packages whose version may change the last bits of a result: they compute, draw random
# numbers, tokenise or score.
BIT_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "scipy",
    "scikit-learn",
    "dora-glue",
)


def provenance() -> dict[str, Any]:
    """Returns a run's origin: command, host, platform, versions, and the package's git commit."""
    packages = (
        "torch",
        "transformers",
        "tokenizers",
        "datasets",
        "evaluate",
        "numpy",
        "scipy",
        "scikit-learn",
        "safetensors",
        "hydra-core",
    )
    return {
        "command": typed(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": {
            "dora-glue": _version("dora-glue"),
            "python": platform.python_version(),
            **{p: _version(p) for p in packages},
            **cuda_versions(),
        },
        "git": _git(),
    }


def processor() -> str:
    """Returns the processor's name and PyTorch's widest vector instructions on it.

    An example is `AMD EPYC (AVX512)`. With other instructions sums are taken in another order, and the
    same run ends in other bits.
    """
    import torch  # late: status and tables must not load it, and whoever trains has it

    names = re.findall(r"model name\s*: (.+)", cpuinfo())
    return (
        f"{(names or [platform.machine()])[0].strip()} ({torch.backends.cpu.get_cpu_capability()})"
    )


def cuda_versions() -> dict[str, str]:
    """Returns the versions of CUDA and cuDNN of this PyTorch; empty for a build for CPUs."""
    import torch  # late, as above

    found = {"cuda": torch.version.cuda}
    if torch.version.cuda is not None and torch.backends.cudnn.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    return {name: version for name, version in found.items() if version}


def cpuinfo() -> str:
    """Returns /proc/cpuinfo, which describes the processor; empty where there is no such file."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # only Linux has this file
        return ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# Once in a process: a commit made while it works is not that of the code that it has loaded.
@functools.cache
def _git() -> dict[str, Any] | None:
    """Returns the commit of this package's checkout, and whether dora/ or conf/ differ from it.

    Returns None for an installed package.
    """
    # The folder above the package; in an installed one it is no checkout. Git names a folder that
    # links lead to without them.
    root = CHECKOUT.resolve()

    def git(*words: str) -> str:
        # Another user's checkout, as one mounted into a container: git reads none by itself, since
        # its configuration may name programs. The programs of this one are running already.
        trusted = ["git", "-c", f"safe.directory={root}", "-C", str(root)]
        return subprocess.run([*trusted, *words], capture_output=True, text=True, check=True).stdout

    try:
        # An environment inside somebody's checkout would give that project's commit.
        if Path(git("rev-parse", "--show-toplevel").strip()) != root:
            return None
        dirty = git("status", "--porcelain", "--", "dora", "conf").strip()
        return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(dirty)}
    except (OSError, subprocess.CalledProcessError):
        return None


def changes(before: dict[str, Any], this: dict[str, Any]) -> str | None:
    """Returns the differences between two starts of a run that change the last bits of its result.

    Returns None if there are none. A key that an older record lacks, such as a package's version,
    is not compared.
    """
    was, is_now = _bits_depend_on(before), _bits_depend_on(this)
    changed = [key for key in is_now if key in was and was[key] != is_now[key]]
    return ", ".join(f"{key} {was[key]} before, now {is_now[key]}" for key in changed) or None


def _bits_depend_on(start: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a start on which the last bits of a result depend.

    Uncommitted changes have no name, so a dirty tree counts as its commit.
    """
    versions = start.get("versions") or {}
    on_cpu = start["device"] == "cpu"
    # With a GPU the processor only loads and writes; without one CUDA's libraries compute nothing.
    packages = BIT_PACKAGES if on_cpu else (*BIT_PACKAGES, "cuda", "cudnn")
    # Neither is part of a run's name, so one start may differ from the next. A CPU has no graphs.
    how = ("compile",) if on_cpu else ("compile", "cuda_graphs")
    return {
        "processes": start["world_size"],
        "device": start["device"],
        "processor": start.get("processor") if on_cpu else None,
        "commit": (start["git"] or {}).get("commit"),
        **{name: versions[name] for name in packages if name in versions},
        **{key: json.dumps(start[key]) for key in how if key in start},
    }
