"""One run of the command line: prepared, and trained unless it is done."""

from __future__ import annotations

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from dora.cli.line import options_of
from dora.configuration.config import from_hydra
from dora.configuration.method_choice import check_choices
from dora.errors import NotNow, Stopped, UserError
from dora.process.imports import uncollected
from dora.process.signals import StopSignals, outside
from dora.records.words import key_of

if TYPE_CHECKING:
    from dora.preparing.prepare import Prepared
    from dora.records.schema import Run

# Modules that a run needs after its preparation. The last one imports nearly everything that
# loading any model imports.
HEAVY = ("torch", "transformers", "dora.training.one_run", "transformers.modeling_utils")


def check_grid(hydra: Any) -> None:
    """Raises UserError where one run's configuration is a search, or a grid without a choice of one.

    Hydra would train one run of the grid, with defaults that the experiment never has. `hydra`: the
    composed `hydra` group of a command without -m, or of `dora.train`.
    """
    grid = hydra.sweeper.params or {}
    given = {key_of(word) for word in hydra.overrides.task}
    if hydra.runtime.choices["hydra/sweeper"] == "tune":
        raise UserError(
            "hydra/sweeper=tune is a search, of many runs: python -m dora.tune begins it"
        )
    if left := [key for key in grid if key not in given]:
        raise UserError(
            f"experiment={hydra.runtime.choices.experiment} is a grid of runs "
            f"over {', '.join(grid)}: add -m to python -m dora.run for all of them, "
            f"or say which one with {' '.join(f'{key}=…' for key in left)}"
        )


def train(cfg: DictConfig) -> float | None:
    """Trains one run unless it is done; returns the task's score.

    Raises UserError, RunFailed or Stopped: inside a sweep nothing may exit.
    """
    # Imported late: --help and a typo need neither models nor metrics.
    from dora.cli import remaining
    from dora.preparing.prepare import prepare
    from dora.training.lines import labelled
    from dora.training.unless_done import train_unless_done

    begin_unless_stopped()
    check_choices(cfg.method, HydraConfig.get().runtime.choices)
    config = from_hydra(cfg)
    prepared = prepare(config, typed=HydraConfig.get().overrides.task)
    if config.rates_from is not None and _label() and not remaining.planned(prepared.folder):
        # The sweep's runs before and behind this one would have other settings.
        raise UserError(
            f"rates_from={config.rates_from} has changed since the sweep was planned, and with it "
            f"this run, now with lr={prepared.settings['lr']:g}: type the sweep again"
        )
    begin_unless_stopped()
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        print(labelled(_label(), line), flush=True)

    _, result = train_unless_done(prepared, lambda: _run(prepared), say)
    # Where several processes train a run, one holds its record, and says this.
    if not said and result and (left := remaining.line(prepared.folder)) is not None:
        print(labelled(_label(), left), flush=True)
    # A sweep prints these once, for all its runs; a process that keeps no record has none.
    if said and result and HydraConfig.get().mode == RunMode.RUN:
        print(*filter(None, (result["embedded"], result["note"])), sep="\n")
    return result.get("results", {}).get("best", {}).get(config.glue_task.metrics[0])


def _label() -> str:
    """Returns the name that a sweep gave this run, empty for a run by itself."""
    hydra = HydraConfig.get()
    return hydra.job.name if hydra.mode == RunMode.MULTIRUN else ""


def _run(prepared: Prepared) -> Run:
    """Trains the run, or predicts the rows that a done one lacks; returns run.json."""
    from dora.process.orphan import at_work

    import_heavy()
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


def import_heavy() -> None:
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
