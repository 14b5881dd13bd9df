"""Where a run comes from: command, machine, versions and commit."""

from __future__ import annotations

import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from dora import CHECKOUT

# The packages whose version changes the last bits of a result: of what is computed, drawn, tokenised or scored.
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
    """Where and with what: host, platform, Python, package versions, the package's git commit."""
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
        "command": shlex.join([os.path.basename(sys.executable), *_argv()]),
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
    """The processor's name and the widest vector instructions that PyTorch uses on it: `AMD EPYC (AVX512)`.

    With other instructions sums come in another order, and the same run ends in other bits.
    """
    import torch  # late: whoever asks has it

    names = re.findall(r"model name\s*: (.+)", _cpuinfo())
    return (
        f"{(names or [platform.machine()])[0].strip()} ({torch.backends.cpu.get_cpu_capability()})"
    )


def cuda_versions() -> dict[str, str]:
    """CUDA's and cuDNN's versions that PyTorch was built with; none where it computes on CPUs alone."""
    import torch  # late: whoever asks has it

    found = {"cuda": torch.version.cuda}
    if torch.version.cuda is not None and torch.backends.cudnn.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    return {name: version for name, version in found.items() if version}


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # Linux alone has it
        return ""


def _argv() -> list[str]:
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    return (
        ["-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]] if spec is not None else sys.argv
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit of the checkout this package runs from and whether dora/ or conf/ differ from it; None if installed."""
    root = CHECKOUT  # in an installed package this is no checkout

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        ).stdout

    try:
        if Path(git("rev-parse", "--show-toplevel").strip()) != root:
            return None
        dirty = git("status", "--porcelain", "--", "dora", "conf").strip()
        return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(dirty)}
    except (OSError, subprocess.CalledProcessError):
        return None


def changes(before: dict[str, Any], this: dict[str, Any]) -> str | None:
    """How this start of a run differs from the one before in what changes the last bits of its result.

    None where it does not. What an older record does not hold, such as a package's version, is not compared.
    """
    was, is_now = _bits_depend_on(before), _bits_depend_on(this)
    changed = [key for key in is_now if key in was and was[key] != is_now[key]]
    return ", ".join(f"{key} {was[key]} before, now {is_now[key]}" for key in changed) or None


def _bits_depend_on(start: dict[str, Any]) -> dict[str, Any]:
    """What of a start changes the last bits of a result. A tree with changes has no name but its commit."""
    versions = start.get("versions") or {}
    on_cpu = start["device"] == "cpu"
    # Beside a GPU the processor only loads and writes; without one CUDA's libraries compute nothing.
    packages = BIT_PACKAGES if on_cpu else (*BIT_PACKAGES, "cuda", "cudnn")
    return {
        "processes": start["world_size"],
        "device": start["device"],
        "processor": start.get("processor") if on_cpu else None,
        "commit": (start["git"] or {}).get("commit"),
        **{name: versions[name] for name in packages if name in versions},
    }


def commits(data: dict[str, Any]) -> str:
    """The commits that trained a run, marked where its sources had uncommitted changes."""
    starts = [start["git"] for start in data.get("starts") or [data]]
    names = [
        f"installed package, version {data['versions']['dora-glue']}"
        if git is None
        else f"{git['commit']}{' with uncommitted changes' if git['dirty'] else ''}"
        for git in starts
    ]
    return ", then ".join(dict.fromkeys(names))
