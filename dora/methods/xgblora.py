"""XGBLoRA (Zhang et al., 2024, arXiv 2410.19694): rank-1 boosters on a few random layers at a time.

    W_t = W_{t−1} + s B_t A_t on the matrices of the layers S_t drawn in round t, rank 1

A chain (`chain.py`) of many short links: after each round the booster is tied and the next one
begins on other layers. "Boosting" means that it starts from the model so far; no residual labels
are fitted. The paper's code is not public. Choices that it leaves open are marked [ours] at the
line.

`budget=r8` stores as many components as LoRA's r8 does, all boosters together. With 12 layers, 3 of
them in each round, that is 32 boosters. The drawn layers are a function of (seed, round).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from dora.adapters.budget import Budget, Matrix
from dora.adapters.changes import Change
from dora.adapters.plan import Plan
from dora.backbones.architectures import layer_and_kind
from dora.methods import base
from dora.methods.base import RunInfo
from dora.methods.chain import RESTARTS, Links, refuse_cold
from dora.methods.rules import in_range, one_of

SHORTEST = 5  # steps of a booster: one of fewer is mostly warm-up [ours]
SAMPLING = ("random", "balanced")


@dataclass
class Settings(base.Settings):
    """The settings in conf/method/xgblora.yaml."""

    scale: float
    dropout: float
    layers: int | None
    sampling: str
    shrinkage: float
    restart: str

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range."""
        found = [
            *in_range("method.scale", self.scale, 1e-6, 1e6, "2 is LoRA's 16/8"),
            *in_range("method.dropout", self.dropout, 0, 1, "LoRA's GLUE runs use 0"),
            *one_of("method.sampling", self.sampling, SAMPLING, "usual is random"),
            *one_of("method.restart", self.restart, RESTARTS, "usual is rewarm"),
        ]
        if not 0 < self.shrinkage <= 1:
            rule = "must be above 0 and at most 1, the paper's"
            found.append(f"method.shrinkage={self.shrinkage} {rule}")
        if self.layers is not None:
            found += in_range("method.layers", self.layers, 1, 1e6, "null is a quarter of them")
        return found


class XGBLoRA(Links):
    """Draws layers for each round, and trains one component of each of their matrices."""

    title = "XGBLoRA"
    paper = "Zhang et al., XGBLoRA, 2024, arXiv 2410.19694"
    # The best evaluation may come from before the last round, when less is stored. A second half
    # that began with the last round would leave nothing to choose from.
    budget = "at_most"
    settings_type = Settings

    def __init__(self, settings: Settings, model: nn.Module, plan: Plan, run: RunInfo) -> None:
        rounds = _rounds(settings, plan.budget, plan.matrices, run.seed)
        links = [[int(i in drawn) for i in range(len(plan.matrices))] for drawn in rounds]
        super().__init__(settings, model, plan, run, links, settings.scale)

    @classmethod
    def plan(
        cls, settings: Settings, budget: Budget, matrices: tuple[Matrix, ...], run: RunInfo
    ) -> Plan:
        """Draws the rounds: the first one's components at the start, those of all at the end.

        Raises ValueError if the budget, the layers or the draws don't fit the model, or if rounds
        are too short.
        """
        if problem := budget.problem(matrices):
            raise ValueError(problem)
        rounds = _rounds(settings, budget, matrices, run.seed)
        at_once, shortest = _at_once(settings, matrices), run.total_steps // len(rounds)
        if run.total_steps and shortest < SHORTEST:
            raise ValueError(
                f"budget={budget} in rounds of {at_once} layers makes {len(rounds)} boosters of "
                f"{shortest} steps, and fewer than {SHORTEST} are mostly warm-up: train longer, "
                "raise method.layers, or lower the budget"
            )
        refuse_cold(settings.restart, len(rounds), run, "fewer boosters")
        _refuse_overfull(budget, matrices, rounds, at_once, run.seed)
        ends = [sum(i in drawn for drawn in rounds) for i in range(len(matrices))]
        start = tuple(int(i in rounds[0]) for i in range(len(matrices)))
        note = f"{len(rounds)} boosters, {shortest} steps or one more each"
        target = budget.total(matrices)
        return Plan(budget, matrices, start, tuple(ends), target, note=note)

    def after_step(self, step: int) -> Change | None:
        """Shrinks the booster at its round's end, then ties it."""
        if self.settings.shrinkage < 1 and step in self._knots[1:]:  # the last one's too
            for layer in self.layers.values():
                layer.B.data *= self.settings.shrinkage
        return super().after_step(step)


def _rounds(
    settings: Settings, budget: Budget, matrices: Sequence[Matrix], seed: int
) -> list[list[int]]:
    """Returns the places, in `matrices`, of the matrices that each round trains.

    Whole rounds while they fit the budget, then one last round of what still fits, in the order of
    drawn layers. [ours]
    """
    costs, left = budget.costs(matrices), budget.total(matrices)
    places = _by_layer(matrices)
    at_once = _at_once(settings, matrices)
    _refuse_misfits(settings, budget, len(places), at_once)
    rounds: list[list[int]] = []
    for order in _draws(settings.sampling, len(places), at_once, seed):
        whole = [at for layer in order[:at_once] for at in places[layer]]
        if sum(costs[at] for at in whole) > left:
            break
        rounds.append(sorted(whole))
        left -= sum(costs[at] for at in whole)
    last = []
    for layer in order:  # of the round that no longer fits whole
        for at in places[layer]:
            if costs[at] <= left:
                last.append(at)
                left -= costs[at]
    return [*rounds, sorted(last)] if last else rounds


def _draws(sampling: str, layers: int, at_once: int, seed: int) -> Iterator[list[int]]:
    """Yields each round's order of all layers, of which it trains the first `at_once`.

    random draws each round anew; balanced takes every layer once before any of them twice.
    """
    number = 0
    while True:
        number += 1
        order = np.random.default_rng([seed, 0xB005, number]).permutation(layers).tolist()
        if sampling == "random":
            yield order
            continue
        for first in range(0, layers, at_once):
            yield order[first:] + order[:first]


def _by_layer(matrices: Sequence[Matrix]) -> list[list[int]]:
    """Returns the places of each layer's matrices."""
    layers: dict[int, list[int]] = {}
    for at, matrix in enumerate(matrices):
        layers.setdefault(layer_and_kind(matrix.name)[0], []).append(at)
    return list(layers.values())


def _at_once(settings: Settings, matrices: Sequence[Matrix]) -> int:
    """Returns how many layers a round trains: a quarter of them unless the settings say. [ours]"""
    return settings.layers or max(1, len(_by_layer(matrices)) // 4)


def _refuse_misfits(settings: Settings, budget: Budget, layers: int, at_once: int) -> None:
    """Raises ValueError unless rounds of `at_once` layers make up the budget."""
    if at_once > layers:
        raise ValueError(f"method.layers={at_once}: this model has {layers} layers")
    if settings.sampling == "balanced" and layers % at_once:
        fitting = ", ".join(str(n) for n in range(1, layers + 1) if layers % n == 0)
        raise ValueError(
            f"method.layers={at_once}: balanced sampling needs a divisor of the model's {layers} "
            f"layers: {fitting}"
        )
    if budget.rank is not None and budget.rank * layers % at_once:
        whole = budget.rank * layers
        fitting = ", ".join(str(n) for n in range(1, layers + 1) if whole % n == 0)
        raise ValueError(
            f"method.layers={at_once}: budget={budget} is {whole} boosters of one layer, which "
            f"rounds of {at_once} layers don't divide; these do: {fitting}"
        )


def _refuse_overfull(
    budget: Budget,
    matrices: Sequence[Matrix],
    rounds: Sequence[Sequence[int]],
    at_once: int,
    seed: int,
) -> None:
    """Raises ValueError if a matrix is drawn more often than its full rank."""
    held = np.zeros((len(rounds), len(matrices)), dtype=int)
    for row, drawn in zip(held, rounds, strict=True):
        row[drawn] = 1
    held, full = held.cumsum(axis=0), np.array([m.full_rank for m in matrices])
    over = (held > full).any(axis=1)
    if not over.any():
        return
    # A smaller budget's rounds are the first ones of this one's.
    layers, fitting = len(_by_layer(matrices)), int(over.argmax())
    most = max(r for r in range(fitting * at_once // layers + 1) if r * layers % at_once == 0)
    at = int((held[-1] - full).argmax())
    raise ValueError(
        f"budget={budget} is larger than this model: seed={seed} draws a matrix of rank {full[at]} "
        f"for {held[-1, at]} boosters of rank 1; at most r{most} or "
        f"{most * sum(m.cost for m in matrices)} parameters fit with this seed"
    )
