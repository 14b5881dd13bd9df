"""Everything a run needs, found and checked before a model is loaded: all problems come in one message."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from dora.adapters.budget import Budget, Matrix, Plan
from dora.backbones import backbone
from dora.backbones.backbone import Folder
from dora.check import check
from dora.config import Config, DataConfig
from dora.data import sources
from dora.data.hub import fetch_hub
from dora.data.mini import mini
from dora.data.parquet import GLUE_REPO, GLUE_REVISION
from dora.data.tasks import AX, TASKS, Rows, Task
from dora.errors import UserError
from dora.methods import METHODS
from dora.records.record import identity
from dora.training.start import Start, read_start

HELDOUT_SHARE, HELDOUT_MOST = 10, 2_000
T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """A run whose every input is known and fits. `train_rows`, `heldout_rows`: rows of the training split."""

    config: Config
    model: Folder
    matrices: tuple[Matrix, ...]
    plan: Plan | None
    rows: dict[str, Rows]
    revision: str | None
    train_rows: np.ndarray
    heldout_rows: np.ndarray | None
    lr: float
    total_steps: int
    fingerprints: dict[str, str | None]
    start: Start | None
    segments: bool

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration in the one spelling that is recorded and hashed."""
        return self.config.resolved()

    @property
    def folder(self) -> Path:
        """The run's directory."""
        c = self.config
        budget = "none" if self.plan is None else str(self.plan.budget)
        key = identity(self.settings, self.fingerprints)
        place = (c.data.name, c.task.name, c.model_name, c.method_name, budget, key, f"s{c.seed}")
        return Path(c.results, "runs", *place)


def prepare(config: Config, here: bool = True) -> Prepared:
    """Checks the configuration, reads the data, plans the budget. Raises UserError with every problem found.

    `here`: the run is to be trained on this machine, so that its device must be there too.
    """
    problems = check(config)

    def attempt(action: Callable[[], T]) -> T | None:
        try:
            return action()
        except UserError as e:
            problems.extend(p for p in e.problems if p not in problems)
        except ValueError as e:
            problems.extend([] if str(e) in problems else [str(e)])
        return None

    if here and config.device.startswith("cuda"):
        problems += _device_problems(config.device)
    m = config.model
    with ThreadPoolExecutor() as pool:  # both may wait for a hub that does not answer
        locating = pool.submit(
            backbone.locate, m.path, m.embedded, m.package, m.hub, m.revision, m.random_weights
        )
        readable = config.task.name in TASKS and (
            config.data.name in ("mini", "hub") or config.data.dir
        )
        reading = pool.submit(read_rows, config.data, config.kind) if readable else None
        lost = m.path is not None and (
            not m.path.strip() or m.path.startswith("~")
        )  # `check` has said so
        folder = None if lost else attempt(locating.result)
        read = None if reading is None else attempt(reading.result)
    architecture = None if folder is None else attempt(lambda: backbone.architecture(folder))
    if folder is not None and architecture is not None:
        problems += _length_problems(config, architecture)
        problems += attempt(lambda: backbone.problems(folder, architecture)) or []
    train_rows = heldout = None
    total_steps = 0
    split = None
    if read is not None:
        rows_there = len(read[0]["train"])
        split = attempt(lambda: split_rows(rows_there, config.limit_train, config.select))
    if split is not None and read is not None and not problems:
        train_rows, heldout = split
        problems += _heldout_problems(config, read[0]["train"], heldout)
    if train_rows is not None and not problems:
        total_steps = config.max_steps or config.epochs * -(-len(train_rows) // config.batch_size)
        problems += [p for p in config.method.problems(total_steps) if p not in problems]
        if config.warmup >= total_steps:
            problems.append(
                f"warmup={config.warmup:g} must be less than the run's {total_steps} steps, or its rate "
                "never reaches lr: give a fraction, or fewer steps"
            )
    matrices: tuple[Matrix, ...] = ()
    plan = start = None
    if architecture is not None and folder is not None:
        weights = backbone.fingerprint(folder)
        start = (
            attempt(lambda: read_start(config, weights, architecture)) if config.init_from else None
        )
        finite = all(math.isfinite(v) for v in vars(config.method).values() if isinstance(v, float))
        planned = attempt(lambda: make_plan(config, architecture, start)) if finite else None
        matrices, plan = planned if planned is not None else ((), None)
    if problems:
        raise UserError(*problems)
    if folder is None or architecture is None or read is None or train_rows is None:
        raise AssertionError("nothing is missing without a problem that says so")
    rows, revision, fingerprint = read
    fingerprints = {
        "data": fingerprint,
        "model": weights,
        "init_from": start.fingerprint if start else None,
    }
    return Prepared(
        config=config,
        model=folder,
        matrices=matrices,
        plan=plan,
        rows=rows,
        revision=revision,
        train_rows=train_rows,
        heldout_rows=heldout,
        lr=config.learning_rate(),
        total_steps=total_steps,
        fingerprints=fingerprints,
        start=start,
        segments=architecture.get("type_vocab_size", 0) > 1,
    )


def _device_problems(device: str) -> list[str]:
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if there == 0:
        return [f"device={device}: no CUDA device here; use device=cpu or auto"]
    number = device.removeprefix("cuda").removeprefix(":")
    if number.isdigit() and int(number) >= there:
        return [f"device={device}: there are {there} CUDA devices here, cuda:0 to cuda:{there - 1}"]
    return []


def _heldout_problems(config: Config, train: Rows, heldout: np.ndarray | None) -> list[str]:
    """A correlation needs two rows with unlike labels, or no evaluation is better than another."""
    metric = config.kind.metrics[0]
    if heldout is None or train.label is None or metric not in ("matthews_correlation", "pearson"):
        return []
    if len(np.unique(train.label[heldout])) > 1:
        return []
    return [
        f"select=heldout holds out {len(heldout)} rows here, whose labels are all alike: {config.task.name}'s {metric} "
        "cannot be had on them; use select=dev"
    ]


def _length_problems(config: Config, architecture: dict[str, Any]) -> list[str]:
    # RoBERTa counts its positions from the one after the padding's id, which is 1 in all that it was published as.
    unused = (
        architecture.get("pad_token_id", 1) + 1 if architecture["model_type"] == "roberta" else 0
    )
    most = architecture.get("max_position_embeddings", 512) - unused
    fine = config.max_length <= most or architecture.get("relative_attention", False)
    return (
        []
        if fine
        else [f"max_length={config.max_length} is longer than this model's {most} positions"]
    )


def read_rows(data: DataConfig, task: Task) -> tuple[dict[str, Rows], str | None, str]:
    """The task's splits, with AX beside MNLI where it is to be had, the revision of a hub's data, and a fingerprint.

    AX is no part of the fingerprint: a run is the same whether it is there or comes later. The last data read stay in
    memory: the runs of a sweep mostly want the same.
    """
    return _read_rows(data.name, data.dir, task.name)


@functools.lru_cache(maxsize=1)
def _read_rows(
    name: str, place: str | None, task_name: str
) -> tuple[dict[str, Rows], str | None, str]:
    task = TASKS[task_name]
    read, revision = _source(name, place, task)
    rows = read(task)
    fingerprint = sources.fingerprint(rows)
    if task.name == "mnli":
        rows |= read(AX)
    return rows, revision, fingerprint


def _source(
    name: str, place: str | None, task: Task
) -> tuple[Callable[[Task], dict[str, Rows]], str | None]:
    """What reads a task's splits, and the revision of a hub's data; these are fetched here."""
    if name == "mini":
        return mini, None
    if place:
        read = sources.read_dir if name == "dir" else sources.read_hub
        return functools.partial(read, folder=Path(place)), None
    wanted = [f"{task.name}/{split}-*" for split in task.splits.values()]
    wanted += ["ax/test-*"] if task.name == "mnli" else []
    instead = "data=dir data.dir=FOLDER (an official GLUE download), or data=mini (embedded)"
    folder = fetch_hub(GLUE_REPO, GLUE_REVISION, wanted, "dataset", instead)
    return functools.partial(sources.read_hub, folder=folder), GLUE_REVISION


def split_rows(n: int, limit: int | None, select: str) -> tuple[np.ndarray, np.ndarray | None]:
    """(rows to train on, rows held out to select on or None), the same for every seed.

    Raises UserError where the share to hold out would be no row.
    """
    shuffled = np.random.default_rng(0).permutation(n)
    heldout = None
    if select == "heldout":
        size = min(n // HELDOUT_SHARE, HELDOUT_MOST)
        if not size:
            raise UserError(
                f"select=heldout needs at least {HELDOUT_SHARE} training rows, of which it holds out one in "
                f"{HELDOUT_SHARE} before limit_train counts, and there are {n}: use select=dev"
            )
        heldout, shuffled = np.sort(shuffled[:size]), shuffled[size:]
    return np.sort(shuffled[:limit]), heldout


def make_plan(
    config: Config, architecture: dict[str, Any], start: Start | None
) -> tuple[tuple[Matrix, ...], Plan | None]:
    """The matrices to adapt and the method's plan for them. Raises ValueError where the budget does not fit."""
    if config.method_name == "full":
        return (), None
    matrices = backbone.find_linears(architecture, config.targets())
    _, method = METHODS[config.method_name]
    plan: Plan = method.plan(config.method, Budget.parse(config.budget), matrices)
    if start is None:
        return matrices, plan
    # Pruned ranks carry over: training starts there, and prunes only what is above the budget.
    ranks = tuple(start.ranks.get(m.name, 0) for m in matrices)
    total = sum(r * c for r, c in zip(ranks, plan.costs, strict=True))
    if plan.end is not None and total > plan.target:
        raise ValueError(
            f"init_from={config.init_from} holds more than budget={config.budget} allows, and "
            f"{config.method_name} removes nothing"
        )
    end = None if plan.end is None and total > plan.target else ranks
    return matrices, replace(plan, start=ranks, end=end, target=min(plan.target, total))
