"""The configuration: its keys with their types and defaults, and values derived from them.

Every default stands once: here, or, for a method's settings, in conf/method/NAME.yaml. Any other
YAML under conf/ holds only values that differ. Hydra is known to this module and its groups
(groups.py), to method_choice.py, run.py and cli/; everything else takes these dataclasses.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from dora.adapters.budget import Budget
from dora.backbones.architectures import KINDS, USUAL
from dora.configuration import search_file
from dora.configuration.groups import DataConfig, FedConfig, ModelConfig, OwnConfig, TaskConfig
from dora.configuration.method_choice import MethodChoice, choose, spelled
from dora.data.tasks import TASKS, Task

MAX_SEED = 2**63 - 1  # the largest that PyTorch's generators take
# The keys whose value is a file's or folder's path.
PATHS = ("results", "data.dir", "model.path", "init_from", "rates_from")

# conf/config.yaml uses it for `results`, which may begin with `~`. Registered here, because every
# process of a sweep imports this module.
OmegaConf.register_new_resolver("expanduser", os.path.expanduser, replace=True)


@dataclass
class Config:
    """One run. Keys that take a fraction of the run below 1 take whole steps from 2.

    docs/settings.md is made from the lines below (scripts/settings_page.py).

    `task`: a GLUE task, the name of a file in conf/task.
    `method`: the name of a file in conf/method, which holds the method's own settings.
    `model`: the backbone, the name of a file in conf/model.
    `data`: where the rows come from, the name of a file in conf/data.
    `fed`: the clients and rounds of a federated method.
    `budget`: `r8` for an average of 8 components a matrix at the end; `0.3M`, `300k` or a number
    for at most so many adapter parameters at the end.
    `seed`: fixes the new head, the adapter's start values, the order of rows and dropout.

    `epochs`: passes over the training set; they are the run's length unless `max_steps` is given.
    `max_steps`: the run's length in optimizer steps.
    `max_length`: tokens of a row, or of a pair of texts together; longer ones are cut.
    `batch_size`: examples of one optimizer step, over all processes and micro-batches.
    `batching`: `length` puts rows of similar length into a batch, with about 0.6 of the padding of
    `random`, which takes shuffled rows as they come.
    `grad_accum`: micro-batches that an optimizer step is cut into.
    `lr`: the peak learning rate; null for that of `rates_from`, else of `rates`, else of the model
    for this method (`model.lr`), else the method's `base_lr`.
    `rates_from`: the file of `python -m dora.tune`, used if `lr` is null: the learning rate that it
    chose, and the setting of the method's own that its YAML names for a search.
    `rates`: learning rates by task and method; a study's file holds them.
    `head_lr`: the peak learning rate of the head; null for `lr`.
    `weight_decay`: AdamW's. Its β₁, β₂ and ε are PyTorch's: 0.9, 0.999 and 1e-8.
    `decay_all`: weight decay on biases and LayerNorm too.
    `warmup`: the part of the run in which the rate rises; a fraction is rounded up to steps, as in
    the Transformers Trainer.
    `schedule`: the learning rate after the warm-up: `linear` or `cosine` to 0, or `constant`.
    `clip`: the largest norm of a step's gradient; 0 for no clipping.
    `head_dropout`: dropout in the head; null for the model's own.

    `precision`: number format of the matrix products, `fp32` or `bf16` (by autocast; trained
    parameters stay in fp32). `auto` stands for bf16 where the device computes it natively, else
    fp32, and is replaced by it before the run is named and recorded.
    `compile`: have torch.compile make the model's kernels. It takes a while before the first step,
    and again where ranks change, at a removal or a chain's next link; at the eighth time PyTorch
    leaves the low-rank layers uncompiled. Steps are slower on a CPU.
    `cuda_graphs`: on a GPU, record a step's launches and repeat them instead of making them anew.
    null: for RoBERTa, with which this was compared on a GPU, and models with its layers (BERT,
    XLM-R, ELECTRA); true: for any model. The method must allow it.
    `device`: `cpu`, `cuda:N`, `cuda` for the GPU with the fewest runs of this suite, or `auto` for
    `cuda` where there is one, else the CPU.
    `threads`: CPU threads; null for the model's own number. Fixed, because it changes the last
    bits.

    `eval_every`: steps between evaluations; null for each epoch.
    `select`: `dev` reports the best development evaluation of the second half; `heldout` selects
    on a tenth of the training set (at most 2,000 rows), held out.
    `patience`: evaluations without a better score after which training stops; null for never.
    `limit_train`: rows to train on, equal for every seed; null for all.
    `init_from`: the directory of a finished run to start from.
    `target`: the linears to adapt: `all`, or some of q, k, v, o, ffn1, ffn2 (ModernBERT: qkv, o,
    glu, ffn2), such as q,v.

    `checkpoint_every`: steps between checkpoints, in addition to every evaluation and every 5
    minutes.
    `results`: the folder for everything written.
    `wandb`: Weights & Biases: `off`, `offline` or `online`.
    `tensorboard`: write curves into the run's directory for TensorBoard to show.
    `keep_model`: keep the whole model of a method whose result is one (full).
    `force`: train a run that is done, has failed or diverged again from the start; a run that was
    stopped or killed is resumed, a forced one too.
    """

    task: TaskConfig = field(default_factory=TaskConfig)
    # Any: its settings are typed by the method's own class, once the YAML has named it (`chosen`).
    method: Any = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    fed: FedConfig = field(default_factory=FedConfig)
    budget: str = "r8"  # text: without a type, Hydra would read 300_000 as a number
    seed: int = 1
    epochs: int = 5
    max_steps: int | None = None
    max_length: int = 128
    batch_size: int = 32
    batching: str = "length"
    grad_accum: int = 1
    lr: float | None = None
    rates_from: str | None = None
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
    cuda_graphs: bool | None = None
    device: str = "auto"
    threads: int | None = None
    eval_every: int | None = None
    select: str = "dev"
    patience: int | None = None
    limit_train: int | None = None
    init_from: str | None = None
    target: Any = "all"  # a text or a list of texts
    checkpoint_every: int | None = None
    results: str = "results"
    wandb: str = "off"
    tensorboard: bool = False
    keep_model: bool = False
    force: bool = False

    @property
    def glue_task(self) -> Task:
        """The task's row in the table."""
        return TASKS[self.task.name]

    @property
    def method_name(self) -> str:
        """The method's name, which its YAML states."""
        return self.chosen.name

    @property
    def chosen(self) -> MethodChoice:
        """The method: its name, class and typed settings."""
        return cast(MethodChoice, self.method)

    @property
    def model_name(self) -> str:
        """The model's name in paths and tables."""
        return self.model.shown_name

    @property
    def data_name(self) -> str:
        """The data's name in paths and tables: the one given, else the source's."""
        return self.data.source if self.data.name is None else self.data.name

    @property
    def embedded(self) -> bool:
        """True if data or model are this package's small ones: scores say nothing about GLUE."""
        return self.data.source == "mini" or bool(self.model.embedded and not self.model.path)

    def targets(self) -> tuple[str, ...]:
        """Returns the kinds of linears to adapt, in the order they have in a layer.

        Raises ValueError for an unknown kind, or for none.
        """
        given = self._target_words()
        if self.all_targets:
            return USUAL
        unknown = [k for k in given if k not in KINDS]
        if unknown or not given:
            typed = self.target if isinstance(self.target, str) else ",".join(map(str, given))
            raise ValueError(
                f"target={typed or self.target} must be all or some of {', '.join(KINDS)}, such as q,v"
            )
        # In the table's order, without repeats: target=v,q is the same run as target=q,v.
        return tuple(k for k in KINDS if k in given)

    @property
    def all_targets(self) -> bool:
        """True if `target` is all, which is for the architecture to spell out."""
        return self._target_words() == ["all"]

    def _target_words(self) -> list[Any]:
        if isinstance(self.target, str):
            # q+v, as tables and published rows spell it, does as well as q,v.
            return list(self.target.replace("+", ",").split(","))
        # Anything else that YAML can say names no kind: null, a number, a mapping.
        return list(self.target) if isinstance(self.target, list | tuple) else []

    @property
    def own(self) -> OwnConfig:
        """The embedded model's best settings; defaults if `model.path` names another model."""
        return OwnConfig() if self.model.path else self.model.own

    @property
    def cpu_threads(self) -> int:
        """The number of CPU threads: `threads`, else the number that serves this model best."""
        return self.threads or self.model.threads or self.own.threads

    @property
    def search_key(self) -> search_file.Key:
        """The key of this run's learning rate in the file of a search."""
        budget = str(Budget.parse(self.budget)) if self.chosen.has_budget else None
        cell = (self.model_name, self.task.name, self.method_name, budget)
        return search_file.Key(*cell, self.length, self.data_name)

    @property
    def length(self) -> str:
        """The run's length as it was given: `600 steps`, `5 epochs`, or `20 rounds`."""
        fed = {"rounds": self.fed.rounds} if self.chosen.kind.federated else None
        return search_file.length({"max_steps": self.max_steps, "epochs": self.epochs, "fed": fed})

    def learning_rate(self) -> float:
        """Returns `lr`, else that of `rates`, of the model, or `base_lr`.

        Where the run has a search, `lr` is that of the search by now (`rates_from.as_tuned`).
        """
        return self.key_and_rate()[1]

    def key_and_rate(self) -> tuple[str, float]:
        """Returns the key that decides the learning rate, and the rate."""
        task, method = self.task.name, self.method_name
        rates = {
            "lr": self.lr,
            f"rates.{task}.{method}": self.rates.get(task, {}).get(method),
            f"model.lr.{method}": self.model.lr.get(method),
            f"model.own.lr.{method}": self.own.lr.get(method),
        }
        usual = "method.base_lr", float(self.chosen.settings.base_lr)
        return next(((key, rate) for key, rate in rates.items() if rate is not None), usual)

    def flat(self) -> dict[str, Any]:
        """Returns every key with its value as nested plain dictionaries."""
        # Only the method's settings: a MethodChoice also holds its class, which is no value.
        rest = dataclasses.replace(self, method=None)
        return {**dataclasses.asdict(rest), "method": dataclasses.asdict(self.chosen.settings)}

    def resolved(self) -> dict[str, Any]:
        """Returns the configuration as a plain dictionary, spelled alike however it was typed.

        It is what run.json records and what a run's directory is named by. `init_from` is left out:
        the fingerprint of its weights stands in for it.
        """
        flat = self.flat()
        lr = self.learning_rate()
        bound = self.chosen.has_budget
        flat.update(
            task=self.task.name,
            model=self.model_name,
            data=self.data_name,
            method=spelled(self.chosen),
            budget=str(Budget.parse(self.budget)) if bound else None,
            target=list(self.targets()) if bound else None,
            lr=lr,
            threads=self.cpu_threads,
            head_lr=lr if self.head_lr is None else self.head_lr,
        )
        # Only inputs of the final `lr`, which is recorded itself.
        del flat["method"]["base_lr"], flat["init_from"], flat["rates"], flat["rates_from"]
        if not self.chosen.kind.federated:
            del flat["fed"]
        # Like `init_from`: fingerprints stand in for the runs that a method reads.
        flat["method"].pop(self.chosen.kind.sources, None)
        if self.max_steps is not None:
            del flat["epochs"]
        return flat


def register() -> None:
    """Registers types and defaults of every key with Hydra, except a method's settings.

    These are typed once the method's YAML has named its class.
    """
    ConfigStore.instance().store(name="schema", node=Config)


def from_hydra(cfg: DictConfig) -> Config:
    """Reads the composed configuration into dataclasses, and expands `~` in paths."""
    config: Config = OmegaConf.to_object(cfg)  # type: ignore[assignment]
    config.method = choose(cfg.method)
    for key in PATHS:
        part, name = holder(config, key)
        if path := getattr(part, name):
            setattr(part, name, os.path.expanduser(path))
    return config


def holder(config: Config, key: str) -> tuple[Any, str]:
    """Returns the dataclass that holds a dotted key, and the field: (config.data, "dir")."""
    group, _, name = key.rpartition(".")
    return (getattr(config, group) if group else config), name
