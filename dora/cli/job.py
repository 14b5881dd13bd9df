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
from dora.configuration.method_choice import named_as_its_file
from dora.errors import NotNow, Stopped, UserError
from dora.process.imports import uncollected
from dora.process.signals import StopSignals, outside

if TYPE_CHECKING:
    from pathlib import Path

    from dora.preparing.prepare import Prepared
    from dora.records.schema import Run

# Modules that a run needs after its preparation. The last one imports nearly everything that
# loading any model imports.
HEAVY = ("torch", "transformers", "dora.training.one_run", "transformers.modeling_utils")


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
    from dora.preparing.prepare import prepare
    from dora.records.run_json import read_done
    from dora.training.lines import labelled

    begin_unless_stopped()
    named_as_its_file(cfg.method, HydraConfig.get().runtime.choices)
    config = from_hydra(cfg)
    prepared = prepare(config)
    begin_unless_stopped()
    recorded = prepared.recorded
    result = None if config.force else read_done(recorded)
    if result is None:
        result = _run(prepared)
        # Of several processes that train a run one holds its record, and says this.
        if result and (left := remaining.line(prepared.folder)) is not None:
            print(labelled(_label(), left), flush=True)
    else:
        _say_done(prepared, recorded, result)
        # Rows without labels, such as AX, may have come after the run was done.
        if added := unpredicted(recorded, prepared.rows):
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


def _say_done(prepared: Prepared, folder: Path, result: Run) -> None:
    """Prints that the run is done, by its record in `folder`. Raises UserError if it lacks the model that is to be kept."""
    from dora.records import packed
    from dora.records.about_method import about_method
    from dora.records.cleaning import tidy
    from dora.records.record import scores
    from dora.training.lines import labelled

    leaves_model = about_method(result).result == "model"
    if prepared.config.keep_model and leaves_model and not (folder / "model").exists():
        raise UserError(
            f"{packed.shown(folder)} is done but kept no model; add force=true to train it again"
        )
    tidy(folder)
    text = f"already done: {packed.shown(folder)} ({scores(result)}); force=true trains it again"
    print(labelled(_label(), text))
    if HydraConfig.get().mode == RunMode.RUN:  # a sweep prints these lines once, for all its runs
        print(*filter(None, (result["embedded"], result["note"])), sep="\n")


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
