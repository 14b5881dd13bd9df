"""The groups of the configuration: task, model, data, and the rounds of a federated method.

`Config`, in dora/config.py, holds one of each. Keys are typed as `model.path=…`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from dora.method_choice import method_names


@dataclass
class TaskConfig:
    """`task=`: a GLUE task.

    `name`: one of cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli.
    """

    name: str = MISSING


@dataclass
class OwnConfig:
    """The settings that serve an embedded model best, and no other model that `path` names.

    `lr`: learning rates by method.
    `threads`: the number of CPU threads.
    """

    lr: dict[str, float] = field(default_factory=dict)
    threads: int = 2


@dataclass
class ModelConfig:
    """`model=`: where the backbone comes from.

    `name`: the model's name in paths and tables; null for the folder's or repository's name.
    `path`: any local folder with config.json, tokenizer and weights; it wins over the next three.
    `embedded`: a folder of this package.
    `package`: a Python package that carries a model.
    `hub`: a repository of the hub.
    `revision`: its commit.
    `random_weights`: draw the weights from a fixed seed instead of reading them, to see how much
    pretraining matters.
    `lr`: learning rates by method.
    `threads`: the number of CPU threads; null for 2, or an embedded model's own number.
    `note`: a sentence shown wherever scores are.
    `own`: an embedded model's `lr` and `threads`, which do not apply to another model that `path`
    names.
    """

    name: str | None = None
    path: str | None = None
    embedded: str | None = None
    package: str | None = None
    hub: str | None = None
    revision: str = "main"
    random_weights: bool = False
    # Every method is a key, so that `model.lr.dora=1e-3` needs no `+` on the command line.
    lr: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(method_names()))
    threads: int | None = None
    note: str | None = None
    own: OwnConfig = field(default_factory=OwnConfig)


@dataclass
class DataConfig:
    """`data=`: where the rows come from.

    `source`: mini, dir or hub; `data=` sets it.
    `name`: the data's name in paths and tables, for rows that are not GLUE's own, such as a sample;
    null for the source's.
    `dir`: with dir, the official GLUE download; with hub, a local copy of the repository.
    """

    source: str = MISSING
    name: str | None = None
    dir: str | None = None


@dataclass
class FedConfig:
    """`fed.…`: the rounds of a federated method (fedit, ffa_lora, lora_fair); others ignore them.

    `clients`: their number; the training rows are dealt among them.
    `fraction`: the share of the clients that is selected in each round.
    `partition`: `dirichlet` deals each class by shares from Dirichlet(`alpha`, …); `iid` deals
    equal random parts.
    `alpha`: of the Dirichlet distribution; the smaller, the more skewed are the classes.
    `local_steps`: optimizer steps of a selected client in a round.
    `rounds`: their number; null for as many as the run's steps make.
    `restart`: `run` has one schedule of the learning rate over all rounds, `round` one in each.
    """

    clients: int = 3
    fraction: float = 1.0
    partition: str = "dirichlet"
    alpha: float = 0.5
    local_steps: int = 10
    rounds: int | None = None
    restart: str = "run"
