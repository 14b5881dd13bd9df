"""Chain of LoRA (COLA; Xia et al., 2024, arXiv 2401.04151): LoRAs trained one after another.

    y = W0 x + b0 + Σ_{j<J} s B_j A_j x + s B_J A_J D x          D: dropout

A run is a chain of J links. At a *knot* the trained link is tied, that is frozen beside the weight,
and the next one begins: A drawn, B zero, no moments. The paper adds a tied link to the weight
itself; here its factors are kept, so that a checkpoint stays small, an export exact, and bf16 safe.

The paper gives every link the rank r and compares with one LoRA of rank r. Here the budget limits
what is stored, which is all links together: with `budget=r8` two links have rank 4 each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from dora.adapters import lowrank
from dora.adapters.budget import Budget, Matrix
from dora.adapters.changes import Change, Renew
from dora.adapters.plan import Plan, equal_plan
from dora.methods import base
from dora.methods.base import RunInfo
from dora.methods.lora import PlainSettings, average_rank, kaiming
from dora.methods.rules import in_range, one_of

RESTARTS = ("full", "rewarm", "none")


def knots(total_steps: int, links: int) -> list[int]:
    """Returns 0 and the steps after which a link ends: link j is trained in (k[j−1], k[j]]."""
    return [j * total_steps // links for j in range(links + 1)]


def refuse_cold(restart: str, links: int, run: RunInfo, way: str) -> None:
    """Raises ValueError if the shortest link, with a schedule of its own, is warm-up alone.

    `way`: a way out beside the warm-up and the restart. A link without a step, and a run that is
    warm-up alone, have messages already.
    """
    total, schedule = run.total_steps, run.schedule
    if restart != "full" or links > total or schedule.cold(total, total, "the run's"):
        return
    way = f", {way}, or method.restart=rewarm"
    if problem := schedule.cold(total // links, total, "the shortest link's", way):
        raise ValueError(problem)


class Links(base.Method):
    """Trains links one after another; a subclass says which ranks each link has.

    The base of Chain of LoRA and XGBLoRA.
    """

    # A chain that another run began would need its knots and its budget too.
    starts_from_runs = False

    def __init__(
        self,
        settings: Any,
        model: nn.Module,
        plan: Plan,
        run: RunInfo,
        links: Sequence[Sequence[int]],
        scale: float,
    ) -> None:
        """Attaches the first link. `links`: each link's rank of every matrix."""
        self.settings, self.run = settings, run
        self._links = links
        self._knots = knots(run.total_steps, len(links))
        self.layers = lowrank.adapt(
            model, plan.matrices, links[0], scale, settings.dropout, gated=False
        )
        generator = run.generator("start")  # LoRA's: a chain of one link is LoRA, to the bit
        for layer in self.layers.values():
            layer.A.data = kaiming(layer.A, generator)

    def learning_rate(self, step: int, usual: float) -> float:
        """Returns the rate of a link that begins anew after a knot.

        full: each link has the whole schedule, warm-up included. rewarm: the run's schedule, and
        after each knot a warm-up on top of it. none: the run's schedule alone. The paper says that
        the optimizer is reset, and nothing of the schedule.
        """
        link = self._link(step)
        began, ends = self._knots[link - 1], self._knots[link]
        part = self.run.schedule.of_part(ends - began, self.run.total_steps)
        if self.settings.restart == "full":
            return part.share(step - began, ends - began)
        if self.settings.restart == "none" or link == 1:
            return usual
        # From 1 / w, not 0: of a link of ten steps none should be wasted.
        return usual * min(1.0, (step - began) / max(1, part.warmup_steps(ends - began)))

    def trained_later(self) -> int:
        """Returns the parameters of the largest link."""
        costs = [sum(layer.base.weight.shape) for layer in self.layers.values()]
        parts = (zip(link, costs, strict=True) for link in self._links)
        return max(sum(rank * cost for rank, cost in part) for part in parts)

    def after_step(self, step: int) -> Change | None:
        """Ties the trained link at a knot and begins the next one."""
        if step not in self._knots[1:-1]:  # behind the last step nothing would train a new link
            return None
        link = self._link(step + 1)
        generator = self.run.generator("link", link)
        start: list[dict[str, Tensor]] = [
            {
                "A": kaiming(torch.empty(rank, layer.base.in_features), generator),
                "B": torch.zeros(layer.base.out_features, rank),
            }
            for rank, layer in zip(self._links[link - 1], self.layers.values(), strict=True)
        ]
        return Renew(start)

    def _link(self, step: int) -> int:
        """Returns the number, from 1, of the link that this step trains."""
        return next(j for j, knot in enumerate(self._knots) if step <= knot)


@dataclass
class Settings(PlainSettings):
    """The settings in conf/method/chain.yaml."""

    links: int
    shares: list[int] | None
    restart: str

    def problems(self, total_steps: int | None) -> list[str]:
        """Returns a message for each value out of range."""
        most = total_steps or 1_000_000
        found = [
            *super().problems(total_steps),
            *in_range("method.links", self.links, 1, most + 1, "the paper chains 1 to 3 links"),
            *one_of("method.restart", self.restart, RESTARTS, "usual is full"),
        ]
        if self.shares is not None:
            shown = self.shown_shares()
            if len(self.shares) != self.links:
                found.append(
                    f"{shown} must have one number for each of method.links={self.links} links"
                )
            if any(share < 1 for share in self.shares):
                found.append(
                    f"{shown} must hold whole numbers from 1; the paper's are [8,2] to [8,8]"
                )
        return found

    def shown_shares(self) -> str:
        """Returns the shares as they are typed."""
        return f"method.shares=[{','.join(map(str, self.shares or []))}]"


class Chain(Links):
    """Splits each matrix's rank over the links.

    One scale, alpha over the average rank of all links together, serves every link. It is LoRA's at
    the same budget. The paper's is alpha over a link's own rank.
    """

    title = "Chain of LoRA"
    paper = "Xia, Qin and Hazan, Chain of LoRA, 2024, arXiv 2401.04151"
    settings_type = Settings

    def __init__(self, settings: Settings, model: nn.Module, plan: Plan, run: RunInfo) -> None:
        assert plan.end is not None  # by `plan`
        scale = settings.alpha / average_rank(plan.end)
        super().__init__(settings, model, plan, run, _ranks_by_link(settings, plan.end), scale)
        self.ranks_final_at = self._knots[-2]

    @classmethod
    def plan(
        cls, settings: Settings, budget: Budget, matrices: tuple[Matrix, ...], run: RunInfo
    ) -> Plan:
        """Gives every matrix LoRA's rank at the end, and the first link's share of it at the start.

        Raises ValueError if the budget does not fit the matrices, leaves a link without a
        component, or a link never reaches the learning rate.
        """
        plan = equal_plan(budget, matrices)
        assert plan.end is not None
        if settings.problems(None):  # which have messages, and may leave no link
            return plan
        links = _ranks_by_link(settings, plan.end)
        empty = [j for j, ranks in enumerate(links, 1) if not any(ranks)]
        if empty:
            # With a component for every link, the shares are at fault: equal ones would fit.
            uneven = settings.links <= max(plan.end)
            shown = settings.shown_shares() if uneven else f"method.links={settings.links}"
            way = "give it a larger share" if uneven else "chain fewer links"
            raise ValueError(
                f"{shown}: budget={budget} gives a matrix {max(plan.end)} components, which leaves "
                f"link {empty[0]} without any; {way}"
            )
        refuse_cold(settings.restart, settings.links, run, "fewer method.links")
        return replace(plan, start=tuple(links[0]))


def _ranks_by_link(settings: Settings, ranks: Sequence[int]) -> list[list[int]]:
    """Returns each link's rank of every matrix, (links, matrices); links add up to `ranks`."""
    shares = settings.shares or [1] * settings.links
    by_matrix = [split(rank, shares) for rank in ranks]
    return [[parts[j] for parts in by_matrix] for j in range(len(shares))]


def split(rank: int, shares: Sequence[int]) -> list[int]:
    """Splits a rank in proportion to `shares`; what is left goes to the largest remainders.

    Equal remainders favour the earlier link: 7 over three equal links is 3, 2, 2.
    """
    exact = [Fraction(rank * share, sum(shares)) for share in shares]
    parts = [int(each) for each in exact]
    by_remainder = sorted(range(len(shares)), key=lambda j: (parts[j] - exact[j], j))
    for j in by_remainder[: rank - sum(parts)]:
        parts[j] += 1
    return parts
