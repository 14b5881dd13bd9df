"""Plans a run before a model is loaded: other runs that it reads, and its budget."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from dora.adapters.budget import Budget, Matrix
from dora.adapters.plan import ENOUGH, Plan
from dora.backbones import backbone
from dora.backbones.backbone import Folder
from dora.configuration.config import Config
from dora.configuration.method_choice import MethodChoice
from dora.configuration.method_class import fingerprint
from dora.errors import attempt
from dora.guarding.planned import checked_plan
from dora.methods.base import Method, RunInfo
from dora.methods.schedule import Schedule
from dora.preparing.init_from import EarlierRun, read_earlier_run
from dora.preparing.length import is_finite
from dora.preparing.source_runs import Source, read_sources


@dataclass(frozen=True)
class MethodInputs:
    """The checked inputs of a run's method.

    `weights`: the model's fingerprint. `earlier`: the run of `init_from`. `sources`: the runs that
    the method reads. `plan`: None if no budget applies.
    """

    weights: str
    earlier: EarlierRun | None
    sources: tuple[Source, ...]
    plan: Plan | None = None

    def fingerprints(self, config: Config, data: str) -> dict[str, str | None]:
        """Returns the fingerprints that name the run; `data`: that of its rows."""
        found = {
            "data": data,
            "model": self.weights,
            "init_from": self.earlier.fingerprint if self.earlier else None,
        }
        if self.sources:
            found["sources"] = " ".join(source.sha256 for source in self.sources)
        # Fewer components than matrices are dealt otherwise than by the first versions. Ranks that
        # a method draws never name a run: all seeds of a configuration have one name.
        plan = self.plan
        if plan is not None and plan.dealt and sum(plan.start) < len(plan.matrices):
            found["ranks"] = hashlib.sha256(repr(plan.start).encode()).hexdigest()
        if source := fingerprint(config.chosen.kind):
            found["method"] = source
        return found


def plan_run(
    config: Config,
    folder: Folder,
    model_config: dict[str, Any],
    total_steps: int,
    problems: list[str],
) -> MethodInputs:
    """Reads the runs that the configuration names and plans the budget; notes every problem.

    `total_steps`: 0 where it is not known because of a problem.
    """
    weights = backbone.fingerprint(folder)
    earlier = None
    if config.init_from and config.chosen.kind.starts_from_runs:
        earlier = attempt(lambda: read_earlier_run(config, weights, model_config), problems)
    sources = attempt(lambda: read_sources(config, weights), problems) or ()
    plan = None
    # A setting that is not finite is a problem by now, and no plan can be made with it.
    if is_finite(config):
        run = run_info(config, total_steps, sources)
        plan = attempt(lambda: make_plan(config, model_config, earlier, run), problems)
    return MethodInputs(weights, earlier, sources, plan)


def run_info(config: Config, total_steps: int, sources: tuple[Source, ...]) -> RunInfo:
    """Returns the steps, seed, schedule and source files that the method is given."""
    schedule = Schedule(config.schedule, config.warmup)
    return RunInfo(total_steps, config.seed, schedule, tuple(s.file for s in sources))


def make_plan(
    config: Config, model_config: dict[str, Any], earlier: EarlierRun | None, run: RunInfo
) -> Plan | None:
    """Returns the method's plan for the budget; None for a method without one.

    Raises ValueError if the budget does not fit the model, or the adapter of `earlier`.
    """
    method = config.chosen
    if not method.has_budget:
        return None
    found = backbone.find_linears(model_config, config.targets())
    matrices = tuple(priced(matrix, method.kind) for matrix in found)
    plan = checked_plan(method, Budget.parse(config.budget), matrices, run)
    if earlier is None:
        return _beside_lora(plan, method, matrices, run)
    # The ranks of the run before carry over: training starts with them, and prunes only what is
    # above the budget. A matrix that it pruned altogether has rank 0.
    ranks = tuple(earlier.ranks.get(m.name, 0) for m in plan.matrices)
    total = plan.budget.spent(ranks, plan.matrices)
    if plan.end is not None and total > plan.target:
        raise ValueError(
            f"init_from={config.init_from} holds more than budget={config.budget} allows, and "
            f"{config.method_name} removes nothing"
        )
    # Nothing above the budget: no pruning is left to do, and the end is known now.
    open_end = plan.end is None and (total > plan.target or plan.at_most)
    end = None if open_end else ranks
    target = min(plan.target, total)
    return replace(plan, start=ranks, end=end, target=target, dealt=True)


def _beside_lora(
    plan: Plan, method: MethodChoice, matrices: tuple[Matrix, ...], run: RunInfo
) -> Plan:
    """Returns the plan, with a note if its rank stands for another number of parameters than LoRA's.

    The note names the budget of LoRA's number. There is none where the method cannot come near it:
    it may need more, or have one size under every budget.
    """
    if (rank := plan.budget.rank) is None:
        return plan
    equal = Budget(params=rank * sum(m.d_in + m.d_out for m in matrices))
    if plan.end_range()[1] == (equal.params, equal.params):
        return plan
    try:
        _, (_, most) = checked_plan(method, equal, matrices, run).end_range()
    except ValueError:
        return plan
    if most < ENOUGH * equal.total(matrices):
        return plan
    text = f"{plan.budget} is not LoRA's number of parameters; that is budget={equal}"
    return replace(plan, note="; ".join(filter(None, [plan.note, text])))


def priced(matrix: Matrix, kind: type[Method]) -> Matrix:
    """Returns the matrix with the method's cost of a component, if that is not the usual one."""
    # A component_cost of None stands for d_in + d_out.
    cost = kind.component_cost(matrix)
    return matrix if cost == matrix.cost else replace(matrix, component_cost=cost)
