"""The groups of the configuration: task, model, data, and the rounds of a federated method.

`Config`, in dora/config.py, holds one of each. Keys are typed as `model.path=…`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from dora.method_choice import method_names


@dataclass
class TaskConfig:
    """`task=`: a GLUE task by name."""

    name: str = MISSING


@dataclass
class OwnConfig:
    """The settings that serve one model best: `lr` by method, and `threads` on a CPU."""

    lr: dict[str, float] = field(default_factory=dict)
    threads: int = 2


@dataclass
class ModelConfig:
    """`model=`: where the backbone comes from. `path`, any local folder, wins over the other three.

    `name`: the model's name in paths and tables; None for the folder's or repository's name.
    `embedded`: a folder of this package. `package`: a Python package that carries a model. `hub`,
    `revision`: a hub repository at a pinned commit. `random_weights`: draw the weights from a fixed
    seed instead of reading them, to see how much pretraining matters. `lr`: learning rates by
    method. `threads`: the number of CPU threads. `note`: a sentence shown wherever scores are.
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
    """`data=`: mini, dir or hub.

    `dir`: the official GLUE download; with hub, a local copy of the repository.
    """

    name: str = MISSING
    dir: str | None = None


@dataclass
class FedConfig:
    """`fed.…`: the rounds of a federated method (fedit, ffa_lora, lora_fair); others ignore them.

    `clients`: among whom the training rows are dealt. `fraction`: of them, selected in each round.
    `partition`: "dirichlet" deals each class by shares from Dirichlet(`alpha`, …), so that a small
    `alpha` skews the classes; "iid" deals equal random parts. `local_steps`: optimizer steps of a
    selected client in a round. `rounds`: None for as many as the run's steps make. `restart`: "run"
    has one schedule of the learning rate over all rounds, "round" one in each.
    """

    clients: int = 3
    fraction: float = 1.0
    partition: str = "dirichlet"
    alpha: float = 0.5
    local_steps: int = 10
    rounds: int | None = None
    restart: str = "run"
