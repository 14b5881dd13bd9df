"""Rules for settings: each returns a message if its rule is broken, and an empty list if not."""

from __future__ import annotations

from collections.abc import Collection


def fraction_or_steps(name: str, value: float, zero: bool = True) -> list[str]:
    """Returns a message unless `value` is a fraction of the run below 1, or whole steps from 2.

    `zero`: whether 0 is allowed. One step is refused, since 1 may be meant as the whole run.
    """
    if value == 1:
        return [
            f"{name}=1 would be one step: write 2 or more steps, or a fraction of the run below 1"
        ]
    return _fraction_or_steps(name, value, zero, least=2)


def interval(name: str, value: float) -> list[str]:
    """Returns a message unless `value` is whole steps from 1, or a fraction of the run below 1."""
    return _fraction_or_steps(name, value, zero=False, least=1)


def _fraction_or_steps(name: str, value: float, zero: bool, least: int) -> list[str]:
    what = f"a fraction of the run below 1, or whole steps from {least}"
    if value < 0 or (value == 0 and not zero):
        return [f"{name}={value} must be {'at least' if zero else 'above'} 0: {what}"]
    fine = value < 1 or float(value).is_integer()
    return [] if fine else [f"{name}={value} must be {what}"]


def in_range(name: str, value: float, low: float, high: float, usual: str) -> list[str]:
    """Returns a message unless `value` lies in [low, high): `low` is allowed, and `high` is not.

    `usual`: names the paper's or its code's value, as a way out.
    """
    # A bound that follows from the run's steps may leave a short run no value at all.
    if not low < high:
        return [
            f"{name}={value}: no value is allowed in this run, as [{low:g}, {high:g}) is empty; {usual}"
        ]
    # NaN compares false with everything, so it breaks every rule.
    fine = low <= value < high
    return [] if fine else [f"{name}={value} must lie in [{low:g}, {high:g}); {usual}"]


def one_of(name: str, value: str, choices: Collection[str], usual: str) -> list[str]:
    """Returns a message unless `value` is one of `choices`; `usual`: names the usual one."""
    fine = value in choices
    return [] if fine else [f"{name}={value} must be one of {', '.join(choices)}; {usual}"]
