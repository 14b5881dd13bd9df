"""Prepares a run: finds and checks everything it needs before a model is loaded.

All problems come in one message.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dora.adapters.plan import Plan
from dora.backbones import backbone
from dora.backbones.architectures import USUAL, architecture_of
from dora.backbones.backbone import Folder
from dora.backbones.model_config import read_config
from dora.configuration.check import check
from dora.configuration.config import Config
from dora.configuration.rates_from import as_tuned, search_of
from dora.configuration.search_file import Search
from dora.data.tasks import TASKS, Rows
from dora.errors import UserError, attempt
from dora.preparing import precision
from dora.preparing.federation import Federation
from dora.preparing.init_from import EarlierRun
from dora.preparing.length import plan_length
from dora.preparing.planning import plan_run
from dora.preparing.rows import Read, heldout_problems, read_rows, split_rows
from dora.preparing.source_runs import Source
from dora.records import run_json
from dora.records.about_method import NO_BUDGET
from dora.records.directories import directory
from dora.records.identity import arithmetic, identity
from dora.records.place import RUNS
from dora.records.record import TRIES
from dora.records.run_json import NotARecord
from dora.records.words import with_values


@dataclass(frozen=True)
class Prepared:
    """The checked inputs of a run.

    `plan`: None if no budget applies. `train_rows`, `heldout_rows`: row numbers in the training
    split. `search`: the one that chose the learning rate, if one did. `segments`: whether the model
    tells a pair's two texts apart by segment ids. `auto`: the precision in `config` is the one that
    `precision=auto` stands for.
    """

    config: Config
    model: Folder
    plan: Plan | None
    rows: dict[str, Rows]
    revision: str | None
    train_rows: np.ndarray
    heldout_rows: np.ndarray | None
    search: Search | None
    total_steps: int
    fingerprints: dict[str, str | None]
    earlier: EarlierRun | None
    sources: tuple[Source, ...]
    federation: Federation | None
    segments: bool
    model_type: str
    auto: bool = False

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration in the spelling that is recorded and hashed."""
        return self.config.resolved()

    @cached_property
    def folder(self) -> Path:
        """The run's directory: results/runs/data/task/model/method/budget/key/s and the seed."""
        c = self.config
        # A method without a budget has one directory, whatever `budget=` says.
        budget = NO_BUDGET if self.plan is None else str(self.plan.budget)
        key = identity(self.settings, self.fingerprints, arithmetic(self.model_type))
        place = (c.data_name, c.task.name, c.model_name, c.method_name, budget, key, f"s{c.seed}")
        return Path(c.results, RUNS, *place)

    def record_folder(self, diverged: int = TRIES) -> Path:
        """Returns the directory that holds the run's record, which may have been packed.

        For a run that starts afresh it is `folder`. `diverged`: as for `directory`.
        """
        return self.folder if self.config.force else directory(self.folder, diverged)

    def in_precision(self, precision: str) -> Prepared:
        """Returns this run in another precision, fp32 or bf16; another directory is its own."""
        return replace(self, config=replace(self.config, precision=precision))

    def of_seed(self, seed: int) -> Prepared:
        """Returns this run with another seed, to find its directory; its plan stays as it is."""
        # From this run's precision: where auto went on with the one it finds for this seed, a
        # sweep's other seeds follow, so that they can be compared.
        return _as_begun(replace(self, config=replace(self.config, seed=seed)))

    def words(self, typed: Sequence[str]) -> tuple[str, ...]:
        """Returns the words typed for this run, with the precision that auto stands for.

        They name this run on any machine, also on one where auto would stand for another precision.
        """
        return with_values(typed, precision=self.config.precision) if self.auto else tuple(typed)


def prepare(config: Config, here: bool = True, typed: Sequence[str] = ()) -> Prepared:
    """Checks the configuration, reads the data and plans the budget.

    `here`: the run is to be trained on this machine, so its device must exist too, and
    `precision=auto` follows it; elsewhere auto stands for fp32, which every machine has. `typed`:
    the words of the command line. Raises UserError with every problem found.
    """
    # Each step below works with what the ones before could find, so that a wrong budget is named
    # even where the data are missing.
    problems: list[str] = []
    search = attempt(lambda: search_of(config), problems)
    if search is not None:
        config = attempt(lambda: as_tuned(config, search, typed), problems) or config
    problems += [text for text in check(config) if text not in problems]
    if here and config.device.startswith("cuda"):
        problems += _device_problems(config.device)
    folder, read = _locate_and_read(config, problems)
    model_config = None
    if folder is not None:
        model_config = attempt(lambda: read_config(folder.path), problems)
    if folder is not None and model_config is not None:
        config = _with_targets(config, model_config["model_type"], problems)
        problems += _length_problems(config, model_config)
        problems += attempt(lambda: backbone.problems(folder, model_config), problems) or []
    train_rows, heldout, labels = _training_rows(config, read, problems)
    total_steps, federation = plan_length(config, labels, problems)
    inputs = None
    if model_config is not None and folder is not None:
        inputs = plan_run(config, folder, model_config, total_steps, problems)
    if problems:
        raise UserError(*problems)
    # Never true: each of these is None only beside a problem. Type checkers cannot know that.
    if folder is None or model_config is None or read is None or train_rows is None:
        raise AssertionError("nothing is missing without a problem that says so")
    assert inputs is not None  # with a config.json that could be read
    prepared = Prepared(
        config=_with_precision(config, here),
        model=folder,
        plan=inputs.plan,
        rows=read.splits,
        revision=read.revision,
        train_rows=train_rows,
        heldout_rows=heldout,
        search=search,
        total_steps=total_steps,
        fingerprints=inputs.fingerprints(config, read.fingerprint),
        earlier=inputs.earlier,
        sources=inputs.sources,
        federation=federation,
        segments=architecture_of(model_config["model_type"]).segments(model_config),
        model_type=model_config["model_type"],
        auto=config.precision == "auto",
    )
    return _as_begun(prepared)


def _with_targets(config: Config, model_type: str, problems: list[str]) -> Config:
    """Returns the configuration with the kinds of linears that target=all stands for here.

    Notes a kind that the architecture does not have.
    """
    has = architecture_of(model_type).linears
    if not config.chosen.has_budget:
        return config
    if config.all_targets:
        return config if tuple(has) == USUAL else replace(config, target=list(has))
    given = attempt(config.targets, problems) or ()
    if lacking := [kind for kind in given if kind not in has]:
        problems.append(
            f"target={','.join(given)}: a layer of a {model_type} model has no "
            f"{' and no '.join(lacking)}; it has {', '.join(has)}"
        )
        return replace(config, target=list(has))  # to find what else is wrong
    return config


def _with_precision(config: Config, here: bool) -> Config:
    """Returns the configuration with the precision that auto stands for.

    Everything is derived from this one: the run's identity and its record must hold the precision
    that determines the result.
    """
    if config.precision != "auto":
        return config
    # An unknown machine may have to emulate bf16, and any has fp32.
    return replace(config, precision=precision.automatic(config.device) if here else "fp32")


def _as_begun(p: Prepared) -> Prepared:
    """Returns the run in the precision in which `precision=auto` began or planned it, if it did.

    So the same command resumes a run on a machine where auto stands for the other precision, and a
    job trains what the machine that submitted it has planned.
    """
    if not p.auto or _by_auto(p.folder):
        return p
    other = p.in_precision(precision.OTHER[p.config.precision])
    return other if _by_auto(other.folder) else p


def _by_auto(folder: Path) -> bool:
    """Tells whether `folder` is that of a run that `precision=auto` has begun or planned."""
    try:
        return bool(run_json.read(directory(folder, diverged=1)).get("auto_precision"))
    except (FileNotFoundError, NotARecord):
        return False


def _locate_and_read(config: Config, problems: list[str]) -> tuple[Folder | None, Read | None]:
    """Finds the model's folder and reads the data; None for the one that could not be had."""
    m = config.model
    # At the same time: each may have to wait for a hub that does not answer.
    with ThreadPoolExecutor() as pool:
        locating = pool.submit(
            backbone.locate,
            m.path,
            embedded=m.embedded,
            package=m.package,
            hub=m.hub,
            revision=m.revision,
            random_weights=m.random_weights,
        )
        readable = config.task.name in TASKS and (
            config.data.source in ("mini", "hub") or config.data.dir
        )
        reading = pool.submit(read_rows, config.data, config.glue_task) if readable else None
        # `check` has reported a path that names nothing.
        lost = m.path is not None and (not m.path.strip() or m.path.startswith("~"))
        folder = None if lost else attempt(locating.result, problems)
        read = None if reading is None else attempt(reading.result, problems)
    return folder, read


def _training_rows(
    config: Config, read: Read | None, problems: list[str]
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Returns (rows to train on, rows held out, labels of the rows to train on).

    All are None where the first cannot be had because of a problem noted in `problems`.
    """
    # `check` has reported a limit that leaves no row.
    if read is None or (config.limit_train is not None and config.limit_train < 1):
        return None, None, None
    train = read.splits["train"]
    split = attempt(lambda: split_rows(len(train), config.limit_train, config.select), problems)
    if split is None:
        return None, None, None
    train_rows, heldout = split
    problems += heldout_problems(config, train, heldout)
    assert train.label is not None  # training rows have labels
    return train_rows, heldout, train.label[train_rows]


def _device_problems(device: str) -> list[str]:
    """Returns a message if the CUDA device that `device` names is not on this machine."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if there == 0:
        return [f"device={device}: no CUDA device here; use device=cpu or auto"]
    number = device.removeprefix("cuda").removeprefix(":")
    if number.isdigit() and int(number) >= there:
        return [f"device={device}: there are {there} CUDA devices here, cuda:0 to cuda:{there - 1}"]
    return []


def _length_problems(config: Config, model_config: dict[str, Any]) -> list[str]:
    """Returns a message if `max_length` exceeds the positions that the model can tell apart."""
    most = architecture_of(model_config["model_type"]).positions(model_config)
    if most is None or config.max_length <= most:
        return []
    return [f"max_length={config.max_length} is longer than this model's {most} positions"]
