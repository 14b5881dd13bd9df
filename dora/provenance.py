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


def provenance() -> dict[str, Any]:
    """Where and with what: host, platform, Python, package versions, the package's git commit."""
    packages = ("torch", "transformers", "datasets", "evaluate", "numpy", "safetensors", "hydra-core")
    return {
        "command": shlex.join([os.path.basename(sys.executable), *_argv()]),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": {
            "dora-glue": _version("dora-glue"),
            "python": platform.python_version(),
            **{p: _version(p) for p in packages},
        },
        "git": _git(),
    }


def processor() -> str:
    """The processor's name and the widest vector instructions that PyTorch uses on it: `AMD EPYC (AVX512)`.

    With other instructions sums come in another order, and the same run ends in other bits.
    """
    import torch  # late: whoever asks has it

    names = re.findall(r"model name\s*: (.+)", _cpuinfo())
    return f"{(names or [platform.machine()])[0].strip()} ({torch.backends.cpu.get_cpu_capability()})"


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # Linux alone has it
        return ""


def _argv() -> list[str]:
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    return ["-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]] if spec is not None else sys.argv


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit of the checkout this package runs from and whether dora/ or conf/ differ from it; None if installed."""
    root = Path(__file__).parents[1]

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
