"""Plans a run's length in steps, and checks the settings that have to fit it."""

from __future__ import annotations

import math

import numpy as np

from dora.configuration.check import MAX_COUNT
from dora.configuration.config import Config
from dora.errors import attempt
from dora.methods.rules import fraction_or_steps
from dora.methods.schedule import Schedule
from dora.plain import counted
from dora.preparing.federation import Federation, steps_a_round


def plan_length(
    config: Config, labels: np.ndarray | None, problems: list[str]
) -> tuple[int, Federation | None]:
    """Returns (steps of the run, its clients and rounds); notes every problem.

    `labels`: of the training rows, None where these could not be had. The steps are 0 where they
    are not known because of a problem; clients and rounds are None too if the method is not
    federated.
    """
    steps, federation = _given_steps(config, labels), None
    if config.chosen.kind.federated:
        federation = _plan_rounds(config, labels, steps, problems)
        # Rounded down to whole rounds, or as many as `fed.rounds` says.
        steps = federation.total_steps if federation else 0
    if steps > MAX_COUNT:
        by_rounds = federation is not None and config.fed.rounds is not None
        given = f"fed.rounds={config.fed.rounds}" if by_rounds else f"epochs={config.epochs}"
        problems.append(f"{given} makes {steps:,} steps, which must be at most {MAX_COUNT:,}")
        return 0, None
    if steps:
        problems += _too_short(config, steps, federation, problems)
    return steps, federation


def given_length(config: Config) -> str | None:
    """Returns the key that gives the run's length in steps, with its value; None by default."""
    if config.max_steps is not None:
        return f"max_steps={config.max_steps}"
    # Five epochs are the default, which nobody may have asked for.
    return f"epochs={config.epochs}" if config.epochs != Config.epochs else None


def is_finite(config: Config) -> bool:
    """Tells whether all settings of the method are finite, so that one can reckon with them."""
    settings = vars(config.chosen.settings).values()
    return all(math.isfinite(v) for v in settings if isinstance(v, float))


def _given_steps(config: Config, labels: np.ndarray | None) -> int:
    """Returns the steps that `max_steps`, or else `epochs`, gives; 0 where it cannot be said."""
    if config.max_steps is not None:  # needs no rows
        return config.max_steps if 1 <= config.max_steps <= MAX_COUNT else 0
    sound = all(1 <= n <= MAX_COUNT for n in (config.epochs, config.batch_size))
    if labels is None or not sound:
        return 0
    # The last batch of an epoch may be smaller, hence rounding up.
    return config.epochs * -(-len(labels) // config.batch_size)


def _plan_rounds(
    config: Config, labels: np.ndarray | None, steps: int, problems: list[str]
) -> Federation | None:
    """Returns clients and rounds of about `steps` steps; None beside a problem."""
    if labels is not None and config.fed.clients > len(labels):
        clients, rows = config.fed.clients, counted(len(labels), "training row")
        most = f"at most {len(labels):,}"
        problems.append(f"fed.clients={clients} is more than the {rows}: {most}")
    # Nothing can be dealt by keys that have a message already.
    if not steps or any(text.startswith(("fed.", "seed=")) for text in problems):
        return None
    if problem := _two_lengths(config, steps):
        problems.append(problem)
        return None
    if labels is None:
        return None
    return attempt(lambda: Federation.of(config.fed, labels, config.seed, steps), problems)


def _two_lengths(config: Config, steps: int) -> str | None:
    """Returns a message if the rounds given and the steps given are different lengths, else None.

    It asks for equal whole rounds of all clients, even if a seed leaves one of them without rows: a
    sweep must not be refused for some of its seeds alone.
    """
    fed = config.fed
    a_round = steps_a_round(fed, fed.clients)
    given = given_length(config)
    if fed.rounds is None or given is None or steps // a_round == fed.rounds:
        return None
    total = fed.rounds * a_round
    return (
        f"{given} and fed.rounds={fed.rounds} are two lengths: a round of "
        f"{a_round // fed.local_steps} clients with fed.local_steps={fed.local_steps} has {a_round} "
        f"steps, which makes {total}; give fed.rounds=null for as many rounds as fit, or "
        f"max_steps={total}"
    )


def _too_short(
    config: Config, steps: int, federation: Federation | None, said: list[str]
) -> list[str]:
    """Returns a message for each setting that does not fit a run of so many steps.

    `said`: the problems found before; a setting among them gets no second message.
    """
    # `check` has asked the settings before, when the run's length was not known.
    found = config.chosen.settings.problems(steps) if is_finite(config) else []
    found += _cold(config, steps, federation)
    keys = {text.split("=")[0] for text in said}
    return [text for text in found if text.split("=")[0] not in keys]


def _cold(config: Config, steps: int, federation: Federation | None) -> list[str]:
    """Returns a message if the warm-up lasts as long as the schedule that it begins.

    The links of a chain, each with a schedule of its own, are asked by their method's plan.
    """
    if fraction_or_steps("warmup", config.warmup):
        return []
    if config.warmup >= steps:
        return [
            f"warmup={config.warmup:g} must be less than the run's {steps} steps, or its rate "
            "never reaches lr: give a fraction, or fewer steps"
        ]
    length, whose, way = steps, "the run's", ""
    if federation is not None:
        length, whose = federation.schedule_steps(config.fed.restart), "each client's"
        if config.fed.restart == "round":
            whose, way = "each round's", ", more fed.local_steps, or fed.restart=run"
    problem = Schedule(config.schedule, config.warmup).cold(length, steps, whose, way)
    return [problem] if problem else []
