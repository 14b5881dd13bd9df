"""The command line: compose the configuration, run it, and the exit code that says how it went."""

from __future__ import annotations

import difflib
import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts, so that its bits repeat
# Idle OpenMP threads sleep: spinning ones make a step 4 times slower where another process wants the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dora.config import Config, from_hydra, register
from dora.errors import RunFailed, Stopped, UserError

# In a wheel conf/ lies inside the package, in a checkout beside it.
CONF = next(d for d in (Path(__file__).parent / "conf", Path(__file__).parents[1] / "conf") if d.is_dir())


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> float | None:
    """One composed configuration; returns the task's score. Raises: inside a sweep nothing may exit."""
    from dora.experiment import run  # late: --help and a typo need no model library

    config = from_hydra(cfg)
    result = run(config)
    return result.get("results", {}).get("best", {}).get(config.kind.metrics[0])


def main() -> None:
    """`python -m dora.run`: exit 0 done or already done, 1 failed, 2 bad configuration, 75 stopped."""
    register()
    sys.argv[1:] = [_list_value(word) for word in sys.argv[1:]]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of ending in Hydra's exit code 1
    try:
        job()
    except (UserError, RunFailed, Stopped) as e:
        what = {UserError: "bad configuration", RunFailed: "failed", Stopped: "stopped"}[type(e)]
        print(f"{what}:\n{e}" if "\n" in str(e) else f"{what}: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
    except (HydraException, OmegaConfBaseException) as e:
        problems = explain(_overrides(sys.argv[1:])) or [_first_lines(e)]
        print("bad configuration:\n" + "\n".join(f"  - {p}" for p in problems), file=sys.stderr)
        sys.exit(2)


def _list_value(word: str) -> str:
    """`target=q,v` is one value with two parts, except in a sweep, where Hydra's comma means two runs."""
    sweeping = any(w in ("-m", "--multirun") for w in sys.argv)
    match = re.fullmatch(r"target=([a-z0-9]+(?:,[a-z0-9]+)+)", word)
    return f"target=[{match[1]}]" if match and not sweeping else word


def _overrides(words: list[str]) -> list[str]:
    return [w for w in words if "=" in w and not w.startswith("-")]


def _first_lines(error: BaseException) -> str:
    """Hydra's message without its traceback and its trailing hints about internals."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [
        line
        for line in lines
        if not re.match(r"(full_key|object_type|reference_type)[:=]|set HYDRA|Config search", line)
    ]
    return " ".join(kept[:4])


def explain(overrides: list[str]) -> list[str]:
    """What is wrong with each override alone, all of them at once; Hydra itself stops at the first.

    Choices (task=…) are tried first, then each value with the choices that were right.
    """
    GlobalHydra.instance().clear()
    problems: list[str] = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = compose("config", return_hydra_config=True)
        groups = {str(k).split("@")[0] for k in plain.hydra.runtime.choices}
        choices = [o for o in overrides if o.split("=")[0].lstrip("+~") in groups]
        good = [o for o in choices if not _problem([o], problems)]
        for override in (o for o in overrides if o not in choices):
            _problem([*good, override], problems)
    return problems


def _problem(overrides: list[str], problems: list[str]) -> bool:
    """Whether composing with `overrides` fails; if so, says why of the last one."""
    try:
        from_hydra(compose("config", overrides=overrides))
        return False
    except (HydraException, OmegaConfBaseException) as e:
        word = overrides[-1]
        key = word.split("=")[0].lstrip("+~")
        text = _first_lines(e)
        if "not in struct" in text or "Could not override" in text or "not in 'Config'" in text:
            near = difflib.get_close_matches(key, _keys(overrides[:-1]), n=2, cutoff=0.6)
            hint = f"; did you mean {' or '.join(near)}?" if near else "; --help lists the keys"
            problems.append(f"{word}: there is no key {key}{hint}")
        else:
            problems.append(f"{word}: {text}")
        return True


def _keys(overrides: list[str]) -> list[str]:
    """Every key of the configuration, dotted."""

    def walk(node: Any, prefix: str) -> list[str]:
        if not isinstance(node, DictConfig):
            return [prefix]
        return [
            k
            for name in node
            for k in walk(node._get_node(name), f"{prefix}.{name!s}" if prefix else str(name))
        ]

    return [*walk(compose("config", overrides=overrides), ""), "experiment"]


__all__ = ["Config", "HydraConfig", "explain", "job", "main"]

if __name__ == "__main__":
    main()
