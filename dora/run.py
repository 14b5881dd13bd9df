"""Trains one run, or sweeps: composes the configuration, trains, ends with an exit code."""

from __future__ import annotations

import argparse
import gc
import os
import sys

# Both are read once, when CUDA and OpenMP start, so they are set before any import.
# With this workspace cuBLAS gives the same bits each time.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Idle OpenMP threads sleep: spinning ones make a step 4 times slower if another process wants the
# cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from dora.package import PLUGINS
from dora.process.signals import outside

if __name__ == "__main__":
    # Before the other imports, which take a second: Ctrl-C then ends in one line as well.
    outside.watch(" while nothing was trained; the same command goes on from here")
    from dora.process.orphan import end_with_torchrun

    end_with_torchrun()

# Hydra 1.3 finds plugins in the top-level namespace `hydra_plugins` only, at its import. The
# sweeper's folder lies inside the package, and joins the namespace of installed launchers.
sys.path.append(str(PLUGINS))

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from dora.cli.choices import usage
from dora.cli.grammar import first_lines
from dora.cli.line import Line, read
from dora.cli.mistakes import MISTAKES, explain, is_mistake
from dora.cli.spelling import is_setting, is_sweep, states_method
from dora.configuration.config import register
from dora.errors import RunFailed, Stopped, UserError
from dora.package import CONF, __version__
from dora.plain import printable

# The first word on standard error; NotNow is a Stopped.
_ENDINGS = {UserError: "bad configuration", RunFailed: "failed", Stopped: "stopped"}
# The error of a run that is no part of a sweep. `hydra.main` returns nothing, and Hydra would print
# a line of its own before the message of an error that passed through it.
_ended: list[Exception] = []


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> float | None:
    """Trains one composed configuration; returns the task's score, as sweepers want it."""
    # Launchers pickle this function, with copies of the globals that it names. Imported here,
    # they are the worker's own.
    from dora.cli.job import check_grid, train
    from dora.process import streams
    from dora.process.signals import outside
    from dora.run import _ended

    if not outside.watching:  # a cluster's job, in a process that began without `__main__` above
        streams.keep_open()
        outside.watch(noting=True)
    try:
        if HydraConfig.get().mode == RunMode.RUN:
            check_grid(HydraConfig.get())
        return train(cfg)
    except (UserError, RunFailed, Stopped, *MISTAKES) as e:
        if HydraConfig.get().mode != RunMode.RUN:
            raise  # the sweep reports it with all others
        _ended.append(e)
        return None


def main() -> None:
    """Runs the command line of `python -m dora.run`.

    Exit code 0 done or already done, 1 failed, 2 bad configuration, 75 stopped.
    """
    register()
    # Exceptions reach `main`; else Hydra prints them and exits with code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    line = Line(())
    try:
        line = read(sys.argv[1:])
        _do(line)
        if _ended:
            raise _ended.pop()
    except (UserError, RunFailed, Stopped) as e:
        ending = next(text for kind, text in _ENDINGS.items() if isinstance(e, kind))
        # Some messages begin with the word: "stopped by a signal after step 3".
        text = printable(str(e).removeprefix(f"{ending} "), kept="\n")
        gap = "\n" if "\n" in text else " "
        print(f"{ending}:{gap}{text}", file=sys.stderr)
        sys.exit(e.exit_code)
    except Exception as e:
        if not is_mistake(e):
            raise
        problems = explain(line.overrides, line.sweeping, line.config_dir) or [first_lines(e)]
        print("bad configuration:\n" + "\n".join(f"  - {p}" for p in problems), file=sys.stderr)
        sys.exit(2)


def _do(line: Line) -> None:
    """Prints version or help, or hands the line to Hydra, which composes it and calls `job`."""
    if line.version:
        print(f"dora-glue {__version__}")
    elif line.help:
        shown = [word for word in line.overrides if "=" in word and not is_sweep(word)]
        print(usage(shown, line.config_dir))
    elif not all(map(is_setting, line.overrides)) or any(map(states_method, line.overrides)):
        # Hydra would name the first alone, and take the second; `explain` names every mistake.
        raise HydraException("a word cannot be a setting")
    else:
        sys.argv[1:] = line.words()
        _check_text_alone()
        try:
            job()
        except SystemExit as e:
            # Hydra's code for a --package that there is none of, which it has said.
            wrong = e.code == 1 and any(word.startswith("--package=") for word in line.options)
            sys.exit(2 if wrong else e.code)


def _check_text_alone() -> None:
    """Keeps argparse from checking the one help of Hydra's options that is no text.

    From Python 3.14 on, argparse checks each help when its option is added. Hydra 1.3 has one that
    becomes a text when it is printed, and so ends there (Hydra's issue 3121).
    """
    check = getattr(argparse.ArgumentParser, "_check_help", None)
    if check is not None:  # Python 3.14 or later

        def check_text(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
            if isinstance(action.help, str):
                check(parser, action)

        argparse.ArgumentParser._check_help = check_text  # type: ignore[attr-defined]


if __name__ == "__main__":
    # Other processes of a sweep import this module by its name, which is not __main__ there.
    from dora.process.command import command
    from dora.run import main as _main

    try:
        command(_main, prints_only=False)
    finally:
        # The interpreter's last search for garbage would take a second.
        gc.freeze()
