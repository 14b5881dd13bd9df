"""The command line: compose the configuration, run it, and the exit code that says how it went."""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import Any

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # before CUDA starts, so that its bits repeat
# Idle OpenMP threads sleep: spinning ones make a step 4 times slower where another process wants the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from dora import PLUGINS
from dora.process.signals import outside

if __name__ == "__main__":
    outside.watch(
        " while nothing was trained; the same command goes on from here"
    )  # imports take a second
    from dora.process.orphan import end_with_torchrun

    end_with_torchrun()

# Hydra looks for plugins in the top-level namespace `hydra_plugins` alone; ours lie inside the package.
sys.path.append(str(PLUGINS))

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from dora import CONF, __version__
from dora.cli.choices import usage
from dora.cli.line import Line, is_setting, is_sweep, options_of, read
from dora.cli.mistakes import MISTAKES, explain, first_lines
from dora.config import from_hydra, register
from dora.errors import NotNow, RunFailed, Stopped, UserError
from dora.plain import printable
from dora.process.imports import uncollected

# What a run imports beyond its preparation. The last is nearly all that loading any model imports.
HEAVY = ("torch", "transformers", "dora.training.one_run", "transformers.modeling_utils")
_ended: list[Exception] = []  # how a run by itself ended, where not with a result


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> float | None:
    """One composed configuration. Launchers send this function to other processes, with copies of its globals."""
    from dora.process import streams
    from dora.process.signals import outside
    from dora.run import _ended, check_grid, train

    if not outside.watching:  # a cluster's job
        streams.keep_open()
        outside.watch(noting=True)
    try:
        check_grid(HydraConfig.get())
        return train(cfg)
    except (UserError, RunFailed, Stopped, *MISTAKES) as e:
        if HydraConfig.get().mode != RunMode.RUN:
            raise  # a sweep counts it
        _ended.append(e)  # for `main`: Hydra would print a line of its own before the message
        return None


def check_grid(hydra: Any) -> None:
    """Raises UserError where an experiment that is a grid of runs would be one run of it, and nobody said which."""
    grid = hydra.sweeper.params or {}
    given = {word.split("=")[0].lstrip("+") for word in hydra.overrides.task}
    if hydra.mode == RunMode.RUN and (left := [key for key in grid if key not in given]):
        raise UserError(
            f"experiment={hydra.runtime.choices.experiment} is a grid of runs over {', '.join(grid)}: add -m for all of "
            f"them, or say which one with {' '.join(f'{key}=…' for key in left)}"
        )


def train(cfg: DictConfig) -> float | None:
    """One run; returns the task's score. Raises: inside a sweep nothing may exit."""
    from dora.data.predictions import unpredicted
    from dora.process.orphan import at_work
    from dora.records.cleaning import tidy
    from dora.records.record import scores
    from dora.records.run_json import read_done
    from dora.training.lines import labelled
    from dora.training.prepare import (
        prepare,  # late: --help and a typo need no library of models or metrics
    )

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
        raise UserError(
            f"{prepared.folder} is done but kept no model; add force=true to train it again"
        )
    if result is not None:
        tidy(prepared.folder)
        print(
            labelled(
                label,
                f"already done: {prepared.folder} ({scores(result)}); force=true trains it again",
            )
        )
        if not sweep:
            print(*filter(None, (result["embedded"], result["note"])), sep="\n")
    if result is None or (added := unpredicted(prepared.folder, prepared.rows)):
        _import_heavy()
        from dora.training.one_run import run

        try:
            hydra = HydraConfig.get()
            words = [*options_of(hydra), *hydra.overrides.task]
            with at_work:
                result = run(prepared, words, label, bar=not in_workers(hydra))
        except (
            UserError,
            NotNow,
        ) as e:  # it cannot be written to, or another process is at work there
            if result is None:
                raise
            print(labelled(label, f"{' and '.join(added).upper()} not predicted: {e}"))
        except Stopped as e:
            outside.stopping = True  # whoever stops a sweep does not mean one run of it
            e.hand_over()  # the run's directory is free again, so a requeued job may take it at once
            if e.result is None:
                raise
            result = e.result
    return result.get("results", {}).get("best", {}).get(config.kind.metrics[0])


def _import_heavy() -> None:
    """Imports what a run needs; the seconds that it takes are cut into pieces, after each of which a sweep may stop."""
    with uncollected():
        for module in HEAVY:
            import_module(module)
            begin_unless_stopped()
        if not gc.get_freeze_count():
            gc.freeze()  # once, before the first model: nothing that is there will ever be garbage


def begin_unless_stopped() -> None:
    """Raises Stopped where a signal has ended an earlier run of this sweep, or came between two."""
    if outside.stopping:
        raise Stopped("not begun: the sweep was stopped")


def in_workers(hydra: Any) -> bool:
    """Whether a sweep's runs are in other processes than the sweep, whose bars would share one line of a terminal."""
    return hydra.mode == RunMode.MULTIRUN and not hydra.launcher["_target_"].endswith(
        ".BasicLauncher"
    )


def main() -> None:
    """`python -m dora.run`: exit 0 done or already done, 1 failed, 2 bad configuration, 75 stopped."""
    register()
    os.environ["HYDRA_FULL_ERROR"] = (
        "1"  # exceptions reach us instead of ending in Hydra's exit code 1
    )
    line = Line(())
    try:
        line = read(sys.argv[1:])
        _do(line)
        if _ended:
            raise _ended.pop()
    except (UserError, RunFailed, Stopped) as e:
        words = {
            UserError: "bad configuration",
            RunFailed: "failed",
            Stopped: "stopped",
            NotNow: "stopped",
        }
        what = words[type(e)]
        text = printable(str(e).removeprefix(f"{what} "), kept="\n")  # "stopped by a signal"
        print(f"{what}:\n{text}" if "\n" in text else f"{what}: {text}", file=sys.stderr)
        sys.exit(e.exit_code)
    except MISTAKES as e:
        problems = explain(line.overrides, line.sweeping, line.config_dir) or [first_lines(e)]
        print("bad configuration:\n" + "\n".join(f"  - {p}" for p in problems), file=sys.stderr)
        sys.exit(2)


def _do(line: Line) -> None:
    """Shows what was asked for, or hands the line to Hydra, which composes it and calls `job`."""
    if line.version:
        print(f"dora-glue {__version__}")
    elif line.help:
        shown = [word for word in line.overrides if "=" in word and not is_sweep(word)]
        print(usage(shown, line.config_dir))
    elif not all(map(is_setting, line.overrides)):
        raise HydraException("a word is no setting")  # `explain` names it, and what else is wrong
    else:
        sys.argv[1:] = line.words()
        job()


if __name__ == "__main__":
    # Other processes of a sweep import this module by its name, which is not __main__ there.
    from dora.process.command import command
    from dora.run import main as _main

    try:
        command(_main, prints_only=False)
    finally:
        gc.freeze()  # nothing is worth collecting any more: the search would take a second
