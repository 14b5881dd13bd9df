"""The base class of every method: the moments of a training step at which a method may act.

A method *decides*, the training loop *applies*. Each moment does nothing unless a method overrides
it; they stand below in the order in which the loop comes to them. `flat_lora.py` is a short
example: LoRA with a setting and two moments of its own. How to add a method of your own, in this
package or outside it: docs/adding-a-method.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from dora.adapters.budget import Budget, Matrix
from dora.adapters.changes import Change
from dora.adapters.components import stored_ranks
from dora.adapters.lowrank import LowRankLinear
from dora.adapters.plan import Plan
from dora.methods.schedule import Schedule
from dora.methods.seeds import seed_of

Tensors = Mapping[str, Tensor]  # by their names in the model


@dataclass
class Settings:
    """The settings that every method has; a method's own class adds its fields.

    Fields have types and no defaults: names and defaults stand in conf/method/NAME.yaml, each with
    a comment. `base_lr`: the learning rate where neither the command line nor the model's YAML
    gives one.
    """

    base_lr: float

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range, with its rule and a way out.

        `total_steps`: the run's length once it is known, so that a run too short for the settings
        shows too.
        """
        return []

    def unused(self, plan: Plan | None) -> dict[str, str]:
        """Returns each setting that has no effect in a run with this plan, with the reason.

        A run of the suite's methods shows those that differ from their defaults. `plan`: None
        without a budget.
        """
        return {}


@dataclass(frozen=True)
class RunInfo:
    """Facts that a method is told of its run.

    `total_steps`: the number of optimizer steps, 0 where a plan is made before it is known. `seed`:
    of everything that the method draws. `schedule`: of the run's learning rate. `sources`: the
    checked files of the runs that its settings name (`Method.sources`), each an adapter in PEFT's
    form or a whole model.
    """

    total_steps: int
    seed: int
    schedule: Schedule = field(default_factory=Schedule)
    sources: tuple[Path, ...] = ()

    def generator(
        self, name: str, index: int = 0, device: torch.device | str = "cpu"
    ) -> torch.Generator:
        """Returns a generator seeded by (seed, name, index) alone, so that no state needs saving.

        "start" with index 0, for start values, is seeded with the run's seed itself.
        """
        itself = (name, index) == ("start", 0)
        seed = self.seed if itself else seed_of(self.seed, name, index)
        return torch.Generator(device).manual_seed(seed)


@dataclass(frozen=True)
class ParameterGroup:
    """Trained tensors with a learning rate, a weight decay or an optimizer of their own.

    `rate`: multiplies the run's learning rate in every step. `weight_decay`: None for the run's.
    `by_method`: the loop's optimizer leaves them alone, and the method moves them in `update`.
    """

    parameters: Sequence[nn.Parameter]
    rate: float = 1.0
    weight_decay: float | None = None
    by_method: bool = False


class FirstRows(Protocol):
    """Runs the first training rows of a run through its model, for `Method.begin`."""

    def __call__(self, number: int, backward: bool = False) -> None:
        """Runs `number` rows forward, without gradients, or backward too, which leaves them."""


class Method:
    """One method, attached to one backbone.

    A method states these as class attributes:

    * `title`: its name in cards and papers; `paper`: its reference; `note`: a sentence that readers
      of its results need.
    * `budget`: how `budget=` binds the parameters stored at the end. "exact": up to the cheapest
      component left out; "at_most": the run may end below it; "none": it does not apply.
    * `result`: what a run leaves. "adapter": low-rank factors, which PEFT reads; "weights": trained
      tensors of the backbone, which an export merges into it; "modules": modules added to the
      backbone, stored by name, which cannot be merged; "model": the whole model, kept only with
      keep_model=true.
    * `settings_type`: the dataclass of its settings.
    * `layout`: settings that say what its stored tensors mean; `init_from` asks for a run in which
      they are equal. `starts_from_runs`: whether `init_from` works with it at all.
    * `sources`: the setting that names finished runs which the method reads, if it has one.
    * `recordable`: whether a GPU may repeat recorded steps (`dora.training.graphs`). Its layers and
      its penalty must then read nothing but tensors that stay in place until a `Change`, and the
      penalty may become another function of them only when the ranks are final. Everything else
      of a step runs as usual. Not inherited: a class states it for itself.
    * `reads_gradients`: whether `after_step` or `update` reads the gradients of its factors.
    * `federated`: whether clients train, each on its own rows, and `aggregate` makes one of them.

    Attached, it has `layers`, its low-rank layers by matrix name (empty for none), and
    `ranks_final_at`, the step, counted from 1, after which its components no longer change (0 if
    they never do): evaluations count for the best one only from there on.
    """

    title: ClassVar[str]
    paper: ClassVar[str | None] = None
    note: ClassVar[str | None] = None
    budget: ClassVar[Literal["exact", "at_most", "none"]] = "exact"
    result: ClassVar[Literal["adapter", "weights", "modules", "model"]] = "adapter"
    settings_type: ClassVar[type[Settings]] = Settings
    layout: ClassVar[tuple[str, ...]] = ()
    starts_from_runs: ClassVar[bool] = True
    sources: ClassVar[str | None] = None
    recordable: ClassVar[bool] = False
    reads_gradients: ClassVar[bool] = False
    federated: ClassVar[bool] = False

    layers: Mapping[str, LowRankLinear] = MappingProxyType({})
    ranks_final_at: int = 0

    def __init__(self, settings: Any, model: nn.Module, plan: Plan | None, run: RunInfo) -> None:
        """Attaches the method to a frozen `model`, on the CPU, and marks what it trains as
        requiring gradients.

        `plan`: from `Method.plan`, under `init_from` with the earlier run's ranks at the start;
        None without a budget.
        """

    # --- before anything is loaded ---
    @classmethod
    def component_cost(cls, matrix: Matrix) -> int:
        """Returns the parameters that one component of this matrix stores once exported."""
        return matrix.d_in + matrix.d_out

    @classmethod
    def plan(
        cls, settings: Any, budget: Budget, matrices: tuple[Matrix, ...], run: RunInfo
    ) -> Plan | None:
        """Returns the ranks at the start and the end under this budget, or None without a budget.

        `run`: for a method whose ranks follow from its length or seed. Raises ValueError where the
        budget does not fit these matrices.
        """
        return None

    # --- once, when training begins ---
    def begin(self, forward: FirstRows) -> None:
        """Sets start values that follow from the weights, or from training rows.

        Called on the main process before a run's first step, not after a resume or `init_from`; the
        other processes get the tensors of the result from it. `forward(n)`: runs the first n
        training rows through the model, in evaluation mode and in 32 bits, so that hooks on layers
        see their inputs, without padding. `forward(n, backward=True)`: also leaves the gradients of
        the task's loss, its mean over these rows, in `.grad` of the trained tensors and of each
        low-rank layer's frozen `weight`. They are cleared by the next call, and after `begin`.
        """

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Returns those of its trained tensors that the optimizer treats unlike the others."""
        return ()

    # --- the moments of a step, in their order; `step` counts from 1 ---
    def learning_rate(self, step: int, usual: float) -> float:
        """Returns this step's learning rate as a share of its peak; `usual`: the share the schedule
        gives.
        """
        return usual

    def noise(self, step: int) -> None:
        """Draws the random values that its layers use in this step's training passes.

        Called once a step, before its first micro-batch, on every process. A layer's `perturbed`
        weight, if this sets one, is taken away when the last micro-batch is done.
        """

    def penalty(self, step: int) -> Tensor | None:
        """Returns the method's term in the training loss, a scalar, counted once a step; None for
        no term.
        """
        return None

    def adjust_gradients(self, step: int) -> None:
        """Rewrites `.grad` of its own tensors, summed over micro-batches and processes, before the
        clip.
        """

    def adjust_clipped_gradients(self, step: int) -> None:
        """Rewrites `.grad` of its own tensors after the clip, before the optimizer."""

    def update(self, step: int, rate: float) -> None:
        """Moves the tensors of its groups that are `by_method`, after the optimizer has moved the
        others.

        `rate`: the run's learning rate in this step. The method keeps their moments in `state`.
        """

    def after_step(self, step: int) -> Change | None:
        """Returns a change to shapes, moments or frozen tensors, which the loop applies, or None.

        Called after the optimizer, while gradients are still there as clipped. May set values of
        its own trained tensors. Raises FloatingPointError if its scores are not finite.
        """
        return None

    # --- federated runs: when a round ends, on the main process ---
    def aggregate(
        self, uploads: Sequence[Tensors], shares: Sequence[float], before: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Returns the new global tensors, made of the clients', and numbers to log.

        `uploads`: every trained tensor of each client, the head's among them, by its name in the
        model. `shares`: each client's part of the rows, whose sum is 1. `before`: the global
        tensors at which the clients began. Only a method that is `federated` has this moment.
        """
        raise NotImplementedError

    # --- what is saved ---
    def ranks(self) -> dict[str, int]:
        """Returns how many components each of the plan's matrices would store now, by its name."""
        return stored_ranks(self.layers)

    def trained_later(self) -> int:
        """Returns the most adapter parameters, without gates, that one step after the first trains.

        0 unless the method trains more of them later than at first.
        """
        return 0

    def frozen(self) -> dict[str, Tensor]:
        """Returns the frozen tensors that belong to the result, by their names in the model.

        A trained tensor belongs to it anyway. The backbone's own, frozen as they were loaded, do
        not.
        """
        return {
            f"{name}.{kept}": tensor
            for name, layer in self.layers.items()
            for kept, tensor in layer.kept().items()
        }

    def state(self) -> dict[str, Tensor]:
        """Returns what a checkpoint needs beyond the result and the optimizer's moments."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes up a `state()` again, on the device where the layers are now."""


def overrides(kind: type[Method], moment: str) -> bool:
    """Says whether a method does anything at this moment, such as "begin" or "after_step"."""
    return getattr(kind, moment) is not getattr(Method, moment)


def moved_by(method: Method) -> list[nn.Parameter]:
    """Returns the trained tensors that the method moves itself, in `update`."""
    return [p for group in method.parameter_groups() if group.by_method for p in group.parameters]


def is_recordable(kind: type[Method]) -> bool:
    """Says whether the method's own class states that its steps may be recorded."""
    return bool(vars(kind).get("recordable", False))
