"""The groups of the configuration: task, model, data, and the rounds of a federated method.

`Config`, in dora/configuration/config.py, holds one of each. Keys are typed as `model.path=…`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from omegaconf import MISSING, OmegaConf

from dora.configuration.method_choice import method_names
from dora.package import CONF

# The keys that say where a model comes from, unless `model.path` does: a model has one of them.
PLACES = ("embedded", "package", "hub")


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

    @property
    def shown_name(self) -> str:
        """The model's name in paths and tables: `name`, else the folder's or repository's.

        A model with drawn weights has the suffix `-random`: it must not share a table with the
        trained one.
        """
        name = self.name
        if name is None and self.path:
            # abspath, not realpath: a symbolic link gives its own name, as the user typed it.
            folder = os.path.basename(os.path.abspath(self.path))
            name = re.sub(r"[^\w .+-]", "_", folder)
        elif name is None:
            # A repository as the hub's own cache spells it: ORG--NAME.
            name = str(self.embedded or self.package or self.hub).replace("/", "--")
        return f"{name}-random" if self.random_weights else name

    @property
    def places(self) -> dict[str, str]:
        """Those of PLACES that are given, with their values; a model has one of them."""
        found = {key: getattr(self, key) for key in PLACES}
        return {key: value for key, value in found.items() if value}

    def namesake(self) -> dict[str, str]:
        """Returns `places` of the suite's model that has this `name`; empty if it has none such."""
        file = CONF / "model" / f"{self.name}.yaml"
        if not self.name or not file.is_file():
            return {}
        held = OmegaConf.load(file)
        return {key: str(held[key]) for key in PLACES if held.get(key)}  # type: ignore


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

    `clients`: their number, at most that of the training rows, which are dealt among them.
    `fraction`: the share of the clients with rows that is selected in each round.
    `partition`: `dirichlet` deals each class by shares from Dirichlet(`alpha`, …); `iid` deals
    equal random parts.
    `alpha`: of the Dirichlet distribution; the smaller, the more skewed are the classes.
    `local_steps`: optimizer steps of a selected client in a round.
    `rounds`: their number; null for as many as the run's steps make. `max_steps` or `epochs` beside
    it must make as many rounds of all clients; clients without rows leave fewer steps.
    `restart`: `run` has one schedule of the learning rate over all rounds, `round` one in each. Then
    a warm-up's first step, at rate 0, is one of each `local_steps`; `warmup=0` leaves it out.
    """

    clients: int = 3
    fraction: float = 1.0
    partition: str = "dirichlet"
    alpha: float = 0.5
    local_steps: int = 10
    rounds: int | None = None
    restart: str = "run"
