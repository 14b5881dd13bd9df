"""The command line: compose the configuration, run it, and the exit code that says how it went."""

from __future__ import annotations

import difflib
import gc
import os
import re
import sys
from importlib import import_module
from string import Template
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts, so that its bits repeat
# Idle OpenMP threads sleep: spinning ones make a step 4 times slower where another process wants the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from dora.signals import outside

if __name__ == "__main__":
    outside.watch(" while nothing was trained; the same command goes on from here")  # imports take a second

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dora import CONF
from dora.config import check, from_hydra, register
from dora.errors import RunFailed, Stopped, UserError
from dora.late import uncollected

_ended: list[UserError | RunFailed | Stopped] = []  # how a run by itself ended, where not with a result


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> float | None:
    """One composed configuration. Launchers send this function to other processes, with copies of its globals."""
    from dora import streams
    from dora.run import _ended, check_grid, train
    from dora.signals import outside

    if not outside.watching:  # a launcher's worker
        streams.keep_open()
        outside.watch(noting=True)
    try:
        check_grid(HydraConfig.get())
        return train(cfg)
    except (UserError, RunFailed, Stopped) as e:
        if HydraConfig.get().mode != RunMode.RUN:
            raise  # a sweep counts it
        _ended.append(e)  # for `main`: Hydra would print a line of its own before the message
        return None


def check_grid(hydra: Any) -> None:
    """Raises UserError where an experiment that is a grid of runs would be one run of it, and nobody said which."""
    grid = hydra.sweeper.params or {}
    given = {_key(word) for word in hydra.overrides.task}
    if hydra.mode == RunMode.RUN and (left := [key for key in grid if key not in given]):
        raise UserError(
            f"experiment={hydra.runtime.choices.experiment} is a grid of runs over {', '.join(grid)}: add -m for all of "
            f"them, or say which one with {' '.join(f'{key}=…' for key in left)}"
        )


def train(cfg: DictConfig) -> float | None:
    """One run; returns the task's score. Raises: inside a sweep nothing may exit."""
    from dora.lines import labelled
    from dora.prepare import prepare  # late: --help and a typo need no library of models or metrics
    from dora.record import read_done, scores

    begin_unless_stopped()
    config = from_hydra(cfg)
    prepared = prepare(config)
    begin_unless_stopped()
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    label = HydraConfig.get().job.name if sweep else ""
    result = None if config.force else read_done(prepared.folder)
    if (
        result is not None
        and config.keep_model
        and config.method_name == "full"
        and not (prepared.folder / "model").exists()
    ):
        raise UserError(f"{prepared.folder} is done but kept no model; add force=true to train it again")
    if result is not None:
        print(
            labelled(label, f"already done: {prepared.folder} ({scores(result)}); force=true trains it again")
        )
        if not sweep:
            print(*filter(None, (result["embedded"], result["note"])), sep="\n")
    else:
        with uncollected():
            from dora.experiment import run

            import_module("transformers.modeling_utils")  # nearly all that loading any model imports
            if not gc.get_freeze_count():
                gc.freeze()  # once, before the first model: nothing that is there will ever be garbage

        try:
            result = run(
                prepared, list(HydraConfig.get().overrides.task), label, bar=not in_workers(HydraConfig.get())
            )
        except Stopped as e:
            outside.stopping = True  # whoever stops a sweep does not mean one run of it
            e.hand_over()  # the run's directory is free again, so a requeued job may take it at once
            if e.result is None:
                raise
            result = e.result
    return result.get("results", {}).get("best", {}).get(config.kind.metrics[0])


def begin_unless_stopped() -> None:
    """Raises Stopped where a signal has ended an earlier run of this sweep, or came between two."""
    if outside.stopping:
        raise Stopped("not begun: the sweep was stopped")


def in_workers(hydra: Any) -> bool:
    """Whether a sweep's runs are in other processes than the sweep, whose bars would share one line of a terminal."""
    return hydra.mode == RunMode.MULTIRUN and not hydra.launcher["_target_"].endswith(".BasicLauncher")


def main() -> None:
    """`python -m dora.run`: exit 0 done or already done, 1 failed, 2 bad configuration, 75 stopped."""
    register()
    sys.argv[1:] = [_list_value(word) for word in sys.argv[1:]]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of ending in Hydra's exit code 1
    try:
        if {"-h", "--help"} & set(sys.argv):
            print(usage(_overrides(sys.argv[1:])))
        else:
            job()
        if _ended:
            raise _ended.pop()
    except (UserError, RunFailed, Stopped) as e:
        what = {UserError: "bad configuration", RunFailed: "failed", Stopped: "stopped"}[type(e)]
        text = str(e).removeprefix(f"{what} ")  # "stopped by a signal"
        print(f"{what}:\n{text}" if "\n" in text else f"{what}: {text}", file=sys.stderr)
        sys.exit(e.exit_code)
    except (HydraException, OmegaConfBaseException) as e:
        problems = explain(_overrides(sys.argv[1:]), _sweeping()) or [_first_lines(e)]
        print("bad configuration:\n" + "\n".join(f"  - {p}" for p in problems), file=sys.stderr)
        sys.exit(2)


def _list_value(word: str) -> str:
    """`target=q,v` is one value with two parts, except in a sweep, where Hydra's comma means two runs."""
    match = re.fullmatch(r"target=([a-z0-9]+(?:,[a-z0-9]+)+)", word)
    return f"target=[{match[1]}]" if match and not _sweeping() else word


def _sweeping() -> bool:
    return any(w in ("-m", "--multirun") for w in sys.argv)


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


def usage(overrides: list[str]) -> str:
    """What --help prints: hydra.help.template, filled in. Hydra's own takes a second longer to list the choices."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=overrides, return_hydra_config=True)
    shown = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    choices = "".join(f"{group}: {', '.join(_choices(group))}\n" for group in _groups())
    return Template(config.hydra.help.template).substitute(
        APP_CONFIG_GROUPS=choices, CONFIG=OmegaConf.to_yaml(shown)
    )


def explain(overrides: list[str], sweeping: bool = False) -> list[str]:
    """What is wrong with each override, all of it at once; Hydra itself stops at the first.

    Choices (task=…) are tried first, then each value by itself with the choices that were right, then what is left
    together, for what `check` finds. A setting of a choice that was wrong (method.… after method=…) is not judged. When
    `sweeping`, each of an override's values is tried.
    """
    GlobalHydra.instance().clear()
    problems: list[str] = []
    if sweeping:
        overrides = list(dict.fromkeys(single for o in overrides for single in _values(o)))
    elif several := [o for o in overrides if len(_values(o)) > 1]:
        problems = [f"{o}: several values make a sweep, which needs -m" for o in several]
        overrides = [o for o in overrides if o not in several]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        groups = [*_groups(), "hydra/launcher"]
        chosen = [o for o in overrides if _key(o) in groups]
        right: dict[str, list[str]] = {}
        for override in chosen:
            if _composes([override]):
                right.setdefault(_key(override), []).append(override)
            elif override in ("hydra/launcher=local", "hydra/launcher=slurm"):
                problems.append(f"{override} needs Hydra's launcher for it: pip install 'dora-glue[sweep]'")
            else:
                problems.append(
                    f"{override}: choose {_key(override)} from {', '.join(_choices(_key(override)))}"
                )
        choices, unknown = dict(right), {_key(o) for o in chosen} - right.keys()
        for override in (o for o in overrides if o not in chosen):
            if _group(override) in unknown:
                continue
            if problem := _with_choices(choices, override, groups):
                problems.append(problem)
            else:
                right.setdefault(_key(override), []).append(override)
        for row in _rows(right):
            try:
                problems += check(from_hydra(compose("config", overrides=row)))
            except (HydraException, OmegaConfBaseException) as e:
                problems.append(_first_lines(e))
    return list(dict.fromkeys(problems))


def _rows(by_key: dict[str, list[str]]) -> list[list[str]]:
    """Overrides with one value of each key, so many that every value is in one of them."""
    longest = max(map(len, by_key.values()), default=1)
    return [[values[min(n, len(values) - 1)] for values in by_key.values()] for n in range(longest)]


def _values(override: str) -> list[str]:
    """`seed=1,2` as seed=1 and seed=2; anything else as it is."""
    try:
        parsed = OverridesParser.create().parse_override(override)
        return [f"{_key(override)}={v}" for v in parsed.sweep_string_iterator()] if parsed.is_sweep_override() else [override]  # fmt: skip
    except HydraException:
        return [override]


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~")


def _composes(overrides: list[str]) -> bool:
    try:
        from_hydra(compose("config", overrides=overrides))
    except (HydraException, OmegaConfBaseException):
        return False
    return True


def _group(override: str) -> str:
    """The choice that a setting belongs to: `method` of method.dem=0.1, nothing of lr=1e-3."""
    return _key(override).rpartition(".")[0].replace("hydra.", "hydra/")


def _with_choices(choices: dict[str, list[str]], override: str, groups: list[str]) -> str | None:
    """Why `override` fails with the choices that were right, if it does.

    In a sweep over method=…, say, a setting may be one that not every method has: then with which it fails.
    """
    group = _group(override)
    others = [values[-1] for key, values in choices.items() if key != group]
    rows = [[*others, own] for own in choices.get(group, [])] or [others]
    problems = [_problem(row, override, groups) for row in rows]
    first = next(filter(None, problems), None)
    if first is None or all(problems):
        return first
    failing = [own for own, problem in zip(choices[group], problems, strict=True) if problem]
    return f"{first} (with {', '.join(failing)})"


def _problem(good: list[str], override: str, groups: list[str]) -> str | None:
    """Why composing with `override` fails, if it does."""
    try:
        from_hydra(compose("config", overrides=[*good, override]))
    except (HydraException, OmegaConfBaseException) as e:
        keys = [*groups, *_keys(good)]
        if _key(override) in keys or _key(override).startswith("hydra."):
            return f"{override}: {_first_lines(e.__cause__ or e)}"
        near = difflib.get_close_matches(_key(override), keys, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "--help lists the keys"
        return f"{override}: there is no key {_key(override)}; {hint}"
    return None


def _groups() -> list[str]:
    """The keys that choose a file: task, method and so on."""
    return sorted(d.name for d in CONF.iterdir() if d.is_dir() and d.name != "hydra")


def _choices(group: str) -> list[str]:
    """The names that `group=` takes, experiments in folders included."""
    files = sorted((CONF / group).rglob("*.yaml"))
    return [
        f.relative_to(CONF / group).with_suffix("").as_posix() for f in files if not f.name.startswith("_")
    ]


def _keys(overrides: list[str]) -> list[str]:
    """Every key of the configuration, dotted."""

    def walk(node: Any, prefix: str) -> list[str]:
        if not isinstance(node, DictConfig):
            return [prefix]
        return [k for name in node for k in walk(node._get_node(name), f"{prefix}.{name!s}".lstrip("."))]

    return walk(compose("config", overrides=overrides), "")


if __name__ == "__main__":
    # Other processes of a sweep import this module by its name, which is not __main__ there.
    from dora.command import command
    from dora.run import main as _main

    try:
        command(_main, prints_only=False)
    finally:
        gc.freeze()  # nothing is worth collecting any more: the search would take a second
