"""Trains one run, or sweeps: composes the configuration, trains, ends with an exit code."""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Both are read once, when CUDA and OpenMP start, so they are set before any import.
# With this workspace cuBLAS gives the same bits each time.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Idle OpenMP threads sleep: spinning ones make a step 4 times slower if another process wants the
# cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from dora import PLUGINS
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

from dora import CONF, __version__
from dora.cli.choices import usage
from dora.cli.grammar import first_lines
from dora.cli.line import Line, is_setting, is_sweep, options_of, read, states_method
from dora.cli.mistakes import MISTAKES, explain, is_mistake
from dora.configuration.config import from_hydra, register
from dora.configuration.method_choice import named_as_its_file
from dora.errors import NotNow, RunFailed, Stopped, UserError
from dora.plain import printable
from dora.process.imports import uncollected
from dora.process.signals import StopSignals

if TYPE_CHECKING:
    from dora.records.schema import Run
    from dora.training.prepare import Prepared

# Modules that a run needs after its preparation. The last one imports nearly everything that
# loading any model imports.
HEAVY = ("torch", "transformers", "dora.training.one_run", "transformers.modeling_utils")
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
    from dora.process import streams
    from dora.process.signals import outside
    from dora.run import _ended, check_grid, train

    if not outside.watching:  # a cluster's job, in a process that began without `__main__` above
        streams.keep_open()
        outside.watch(noting=True)
    try:
        check_grid(HydraConfig.get())
        return train(cfg)
    except (UserError, RunFailed, Stopped, *MISTAKES) as e:
        if HydraConfig.get().mode != RunMode.RUN:
            raise  # the sweep reports it with all others
        _ended.append(e)
        return None


def check_grid(hydra: Any) -> None:
    """Raises UserError if an experiment is a grid of runs, and neither -m nor one run is given.

    Without -m Hydra would train one run of the grid, with defaults that the experiment never has.
    """
    grid = hydra.sweeper.params or {}
    given = {word.split("=")[0].lstrip("+") for word in hydra.overrides.task}
    if hydra.mode == RunMode.RUN and (left := [key for key in grid if key not in given]):
        raise UserError(
            f"experiment={hydra.runtime.choices.experiment} is a grid of runs "
            f"over {', '.join(grid)}: add -m for all of them, "
            f"or say which one with {' '.join(f'{key}=…' for key in left)}"
        )


def train(cfg: DictConfig) -> float | None:
    """Trains one run unless it is done; returns the task's score.

    Raises UserError, RunFailed or Stopped: inside a sweep nothing may exit.
    """
    # Imported late: --help and a typo need neither models nor metrics.
    from dora.cli import remaining
    from dora.data.predictions import unpredicted
    from dora.records.run_json import read_done
    from dora.training.lines import labelled
    from dora.training.prepare import prepare

    begin_unless_stopped()
    named_as_its_file(cfg.method, HydraConfig.get().runtime.choices)
    config = from_hydra(cfg)
    prepared = prepare(config)
    begin_unless_stopped()
    result = None if config.force else read_done(prepared.folder)
    if result is None:
        result = _run(prepared)
        # Of several processes that train a run one holds its record, and says this.
        if result and (left := remaining.line(prepared.folder)) is not None:
            print(labelled(_label(), left), flush=True)
    else:
        _say_done(prepared, result)
        # Rows without labels, such as AX, may have come after the run was done.
        if added := unpredicted(prepared.folder, prepared.rows):
            try:
                result = _run(prepared)
            # Not writable, or another process is at work there. The scores are good all the same.
            except (UserError, NotNow) as e:
                print(labelled(_label(), f"{' and '.join(added).upper()} not predicted: {e}"))
    return result.get("results", {}).get("best", {}).get(config.kind.metrics[0])


def _label() -> str:
    """Returns the name that a sweep gave this run, empty for a run by itself."""
    hydra = HydraConfig.get()
    return hydra.job.name if hydra.mode == RunMode.MULTIRUN else ""


def _say_done(prepared: Prepared, result: Run) -> None:
    """Prints that the run is done. Raises UserError if it lacks the model that is to be kept."""
    from dora.records.about_method import about_method
    from dora.records.cleaning import tidy
    from dora.records.record import scores
    from dora.training.lines import labelled

    leaves_model = about_method(result).result == "model"
    if prepared.config.keep_model and leaves_model and not (prepared.folder / "model").exists():
        raise UserError(
            f"{prepared.folder} is done but kept no model; add force=true to train it again"
        )
    tidy(prepared.folder)
    text = f"already done: {prepared.folder} ({scores(result)}); force=true trains it again"
    print(labelled(_label(), text))
    if HydraConfig.get().mode == RunMode.RUN:  # a sweep prints these lines once, for all its runs
        print(*filter(None, (result["embedded"], result["note"])), sep="\n")


def _run(prepared: Prepared) -> Run:
    """Trains the run, or predicts the rows that a done one lacks; returns run.json."""
    from dora.process.orphan import at_work

    _import_heavy()
    from dora.training.one_run import run

    hydra = HydraConfig.get()
    words = [*options_of(hydra), *prepared.words(hydra.overrides.task)]
    signals = StopSignals()
    try:
        with at_work:
            result = run(prepared, words, _label(), bar=not in_workers(hydra), signals=signals)
    except NotNow:  # ends this run alone
        raise
    except Stopped:
        _stop_sweep(signals)
        raise
    if signals.received is not None:  # too late to stop this run, not too late to stop its sweep
        _stop_sweep(signals)
    return result


def _stop_sweep(signals: StopSignals) -> None:
    """Ends the sweep with this run: whoever stops a sweep does not mean one run of it."""
    outside.stopping = True
    # The run's directory is free again by now, so a job that is requeued may take it at once.
    signals.hand_over()


def _import_heavy() -> None:
    """Imports the modules that a run needs, which takes seconds; a signal is heard after each."""
    with uncollected():
        for module in HEAVY:
            import_module(module)
            begin_unless_stopped()
        # Once, before the first model: no module will ever be garbage, and a search through all
        # of their objects would take time in every run.
        if not gc.get_freeze_count():
            gc.freeze()


def begin_unless_stopped() -> None:
    """Raises Stopped if a signal has ended an earlier run of this sweep, or came between two."""
    if outside.stopping:
        raise Stopped("not begun: the sweep was stopped")


def in_workers(hydra: Any) -> bool:
    """Tells whether a sweep's runs are in other processes than the sweep.

    Their progress bars would share one line of a terminal.
    """
    return hydra.mode == RunMode.MULTIRUN and not hydra.launcher["_target_"].endswith(
        ".BasicLauncher"
    )


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
        job()


if __name__ == "__main__":
    # Other processes of a sweep import this module by its name, which is not __main__ there.
    from dora.process.command import command
    from dora.run import main as _main

    try:
        command(_main, prints_only=False)
    finally:
        # The interpreter's last search for garbage would take a second.
        gc.freeze()
