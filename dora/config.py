"""The configuration: its keys with their types and defaults, and the check that finds every problem.

Every default stands here or in a method's `Settings`, once; a YAML under conf/ holds only what differs.
Hydra is known to this module and to run.py; everything else takes these dataclasses.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from dora.budget import Budget
from dora.data.tasks import TASKS, Task
from dora.linears import KINDS
from dora.methods import METHODS, name_of
from dora.methods.protocol import fraction_or_steps

MAX_SEED = 2**63 - 1  # PyTorch's


@dataclass
class TaskConfig:
    """`task=`: a GLUE task by name."""

    name: str = MISSING


@dataclass
class ModelConfig:
    """`model=`: where the backbone comes from. `path`, any local folder, wins over the other three.

    `embedded`: a folder of this package. `package`: a Python package that carries a model. `hub`,
    `revision`: a hub repository at a pinned commit. `random_weights`: draw the weights from a fixed seed
    instead of reading them, to see what pretraining is worth. `lr`: the learning rates found for this model,
    by method. `threads`: CPU threads that serve it best. `note`: shown wherever scores are.
    """

    name: str = MISSING
    path: str | None = None
    embedded: str | None = None
    package: str | None = None
    hub: str | None = None
    revision: str = "main"
    random_weights: bool = False
    lr: dict[str, float] = field(default_factory=dict)
    threads: int = 2
    note: str | None = None


@dataclass
class DataConfig:
    """`data=`: mini, dir or hub. `dir`: the official GLUE download; with hub, a local copy of the repository."""

    name: str = MISSING
    dir: str | None = None


@dataclass
class Config:
    """One run. Keys that take a fraction of the run below 1 take whole steps from 1.

    `rates`: learning rates that a search found, by task and method, where `lr` is None: a study's file
    holds them.

    Training. `batch_size`: examples an optimizer step takes, over all processes and micro-batches;
    `grad_accum`: micro-batches a step is cut into. `epochs` or, where given, `max_steps`. `lr`: where
    None, the model's own for this method (`model.lr`), or the method's `base_lr`. `head_lr`: where None, `lr`. `head_dropout`: where
    None, the model's own. `clip`: gradient norm, 0 for none. `warmup`: a fraction is rounded up, as in the
    Transformers Trainer. `decay_all`: weight decay on biases and LayerNorm too. `group_by_length`: batches of
    rows of about one length, which leaves little padding; false cuts shuffled rows into batches as they come. `target`: the linears to adapt, "all" or
    some of q, k, v, o, ffn1, ffn2 (q,v). `init_from`: the directory of a finished run to start from.

    Evaluation. `eval_every`: steps, where None each epoch. `select`: "dev" reports the best development
    evaluation of the second half; "heldout" chooses on a tenth of the training set (at most 2,000
    rows), held out. `patience`: evaluations without a better score after which to stop, None for never.
    `limit_train`: train on this many rows, the same for every seed.

    The run. `compile`: have torch.compile make the model's kernels, which takes a while before the first
    step and again after a removal, and is slower on a CPU. `threads`: CPU threads, where None the model's
    own number; fixed because it changes the last bits. `checkpoint_every`: steps, in addition to every
    evaluation and every 5 minutes. `results`: the folder for everything written. `force`: train a run that is
    done once more, from the start; one that is not done goes on.
    """

    task: TaskConfig = field(default_factory=TaskConfig)
    method: Any = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    budget: str = "r8"
    seed: int = 1
    epochs: int = 5
    max_steps: int | None = None
    max_length: int = 128
    batch_size: int = 32
    group_by_length: bool = True
    grad_accum: int = 1
    lr: float | None = None
    rates: dict[str, dict[str, float]] = field(default_factory=dict)
    head_lr: float | None = None
    weight_decay: float = 0.01
    decay_all: bool = False
    warmup: float = 0.06
    schedule: str = "linear"
    clip: float = 1.0
    head_dropout: float | None = None
    precision: str = "fp32"
    compile: bool = False
    device: str = "auto"
    threads: int | None = None
    eval_every: int | None = None
    select: str = "dev"
    patience: int | None = None
    limit_train: int | None = None
    init_from: str | None = None
    target: Any = "all"
    checkpoint_every: int | None = None
    results: str = "results"
    wandb: str = "off"
    keep_model: bool = False
    force: bool = False

    @property
    def kind(self) -> Task:
        """The task's row in the table."""
        return TASKS[self.task.name]

    @property
    def method_name(self) -> str:
        """The method's name in the registry."""
        return name_of(self.method)

    @property
    def model_name(self) -> str:
        """The model's name in paths and tables: its YAML's, or the folder's where `model.path` stands alone.

        Drawn weights are another model: they must not share a table with the trained ones.
        """
        name = self.model.name
        if self.model.path and self.model.embedded:
            name = Path(self.model.path).expanduser().resolve().name
        return f"{name}-random" if self.model.random_weights else name

    @property
    def embedded(self) -> bool:
        """Whether data or model are the small ones of this package, whose scores say nothing about GLUE."""
        return self.data.name == "mini" or bool(self.model.embedded and not self.model.path)

    def targets(self) -> tuple[str, ...]:
        """The kinds of linears to adapt, in the order they have in a layer."""
        given = (
            self.target.replace("+", ",").split(",") if isinstance(self.target, str) else list(self.target)
        )
        if given == ["all"]:
            return KINDS
        unknown = [k for k in given if k not in KINDS]
        if unknown or not given:
            raise ValueError(f"target={self.target} must be all or some of {', '.join(KINDS)}, such as q,v")
        return tuple(k for k in KINDS if k in given)

    @property
    def cpu_threads(self) -> int:
        """`threads`, or the number that serves this model best."""
        return self.threads or self.model.threads

    def learning_rate(self) -> float:
        """`lr`, else the one in `rates`, else the model's for this method, else the method's at base size."""
        if self.lr is not None:
            return self.lr
        found = {} if self.model.path and self.model.embedded else self.model.lr
        own = self.rates.get(self.task.name, {})
        return own.get(self.method_name) or found.get(self.method_name) or float(self.method.base_lr)

    def resolved(self) -> dict[str, Any]:
        """The configuration as a plain dictionary in one spelling a run, paths left out."""
        flat = dataclasses.asdict(self)
        lr = self.learning_rate()
        full = self.method_name == "full"
        flat.update(
            task=self.task.name,
            model=self.model_name,
            data=self.data.name,
            method={"name": self.method_name, **flat["method"]},
            budget=None if full else str(Budget.parse(self.budget)),
            target=None if full else list(self.targets()),
            lr=lr,
            threads=self.cpu_threads,
            head_lr=lr if self.head_lr is None else self.head_lr,
        )
        del flat["method"]["base_lr"], flat["init_from"], flat["rates"]
        if self.max_steps is not None:
            del flat["epochs"]
        return flat


def register() -> None:
    """Tells Hydra the schemas; a method's own lie in a group apart, so that they are no `method=` choice."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for name, (settings, _) in METHODS.items():
        store.store(group="schema/method", name=name, node=settings)


def from_hydra(cfg: DictConfig) -> Config:
    """The composed configuration as dataclasses."""
    return OmegaConf.to_object(cfg)  # type: ignore[return-value]


def check(config: Config) -> list[str]:
    """Every problem that shows without opening a file, each with value, rule and way out."""
    return [
        *_keys_added(config),
        *_of_choices(config),
        *config.method.problems(None),
        *_of_budget(config),
        *_of_training(config),
        *_of_place(config),
    ]


def _broken(*rules: tuple[bool, str]) -> list[str]:
    """The messages of those rules, (whether it is kept, message), that are not kept."""
    return [message for kept, message in rules if not kept]


def _choice(config: Config, key: str, *allowed: str) -> tuple[bool, str]:
    value = getattr(config, key)
    return value in allowed, f"{key}={value} must be one of {', '.join(allowed)}"


def _keys_added(config: Config) -> list[str]:
    """What `+key=value` added beside the keys that there are, and nothing would read."""
    groups = {f"{key}.": value for key, value in vars(config).items() if dataclasses.is_dataclass(value)}
    parts: dict[str, Any] = {"": config, **groups}
    return [
        f"+{prefix}{key}: there is no key {prefix}{key}; --help lists the keys"
        for prefix, part in parts.items()
        for key in sorted(vars(part).keys() - {f.name for f in dataclasses.fields(part)})
    ]


def _of_choices(config: Config) -> list[str]:
    """Task, model and data, and the rates given for them."""
    task, data = config.task.name, config.data
    named = re.fullmatch(r"\w[\w .+-]*", config.model_name) is not None
    strange = [t for t in config.rates if t not in TASKS]
    tables = {"model.lr": config.model.lr, **{f"rates.{t}": by for t, by in config.rates.items()}}
    wrong = {key: {m: v for m, v in rates.items() if m not in METHODS or not 0 < v < math.inf}
             for key, rates in tables.items()}  # fmt: skip
    return _broken(
        (task in TASKS, f"task={task} must be one of {', '.join(TASKS)}"),
        (named, f"model.name={config.model_name} names a folder: letters, digits and . _ + - make it up"),
        *((not of, f"{key}={of} must give methods ({', '.join(METHODS)}) rates above 0") for key, of in wrong.items()),
        (not strange, f"rates: {', '.join(strange)} must be among the tasks {', '.join(TASKS)}"),
        (data.name in ("mini", "dir", "hub"), f"data={data.name} must be one of mini, dir, hub"),
        (data.name != "dir" or bool(data.dir),
         "data=dir needs data.dir=FOLDER, an official GLUE download (zips or unpacked TSVs)"),
        (data.name != "mini" or not data.dir, "data.dir is given but data=mini: write data=dir too"),
    )  # fmt: skip


def _of_budget(config: Config) -> list[str]:
    """Budget and target, which full fine-tuning has none of."""
    found = []
    if config.method_name != "full":
        for parse in (lambda: Budget.parse(config.budget), config.targets):
            try:
                parse()
            except ValueError as e:
                found.append(str(e))
    return found


def _of_training(config: Config) -> list[str]:
    """Seed, lengths, rates, regularisation."""
    counts = ("epochs", "max_steps", "batch_size", "grad_accum", "threads", "eval_every", "patience", "limit_train",
              "checkpoint_every")  # fmt: skip
    lowest = {**dict.fromkeys(counts, 1), "max_length": 8}
    numbers = {key: getattr(config, key) for key in (*lowest, "lr", "head_lr")}
    dropout, batch, parts = config.head_dropout, config.batch_size, config.grad_accum
    return fraction_or_steps("warmup", config.warmup) + _broken(
        *((numbers[key] is None or numbers[key] >= low, f"{key}={numbers[key]} must be at least {low}")
          for key, low in lowest.items()),
        (0 <= config.seed <= MAX_SEED, f"seed={config.seed} must lie between 0 and {MAX_SEED}"),
        *((numbers[key] is None or 0 < numbers[key] < math.inf, f"{key}={numbers[key]} must be above 0")
          for key in ("lr", "head_lr")),
        (0 <= config.weight_decay < math.inf, f"weight_decay={config.weight_decay} must be finite and at least 0"),
        (config.clip >= 0, f"clip={config.clip} must be at least 0 (0: no clipping)"),
        (dropout is None or 0 <= dropout < 1, f"head_dropout={dropout} must lie in [0, 1)"),
        (batch >= parts or batch < 1, f"grad_accum={parts} cuts a batch of batch_size={batch} into empty parts"),
        _choice(config, "schedule", "linear", "cosine", "constant"),
        _choice(config, "precision", "fp32", "bf16"),
        _choice(config, "select", "dev", "heldout"),
    )  # fmt: skip


def _of_place(config: Config) -> list[str]:
    """Device, tracking and the folder for results."""
    device, results = config.device, Path(config.results).absolute()
    known = device in ("auto", "cpu", "cuda") or (device.startswith("cuda:") and device[5:].isdigit())
    tracked = config.wandb == "off" or find_spec("wandb") is not None
    parent = next(p for p in (results, *results.parents) if p.exists())
    return _broken(
        (known, f"device={device} must be auto, cpu, cuda or cuda:N"),
        _choice(config, "wandb", "off", "offline", "online"),
        (tracked, f"wandb={config.wandb} needs its package: pip install wandb"),
        (bool(config.results), "results= must name a folder"),
        (parent.is_dir() and os.access(parent, os.W_OK), f"results={config.results}: {parent} cannot be written to"),
    )  # fmt: skip
