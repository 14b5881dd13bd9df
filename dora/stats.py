"""Means over seeds and what they can bear, in NumPy alone.

Averages over tasks get a t interval with a variance of its own for each task (Welch and Satterthwaite): at
3 to 5 seeds a stratified bootstrap of the same data covers 82 to 90 %, not the 95 % it says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(100)


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error and the degrees of freedom of that. With one value a group, error and df are NaN."""

    mean: float
    error: float
    df: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """(low, high) of the two-sided t interval; NaN where the error is."""
        half = t_quantile(0.5 + level / 2, self.df) * self.error if self.error > 0 else self.error
        return self.mean - half, self.mean + half

    def detectable(self, alpha: float = 0.05, power: float = 0.8) -> float:
        """The true difference from 0 that a two-sided t test at `alpha` would find with probability `power`.

        By the usual approximation of the non-central t, (t(1 - alpha/2) + t(power)) x error: at n = 5
        within 3 % of the exact value.
        """
        if not self.error > 0:
            return self.error
        return (t_quantile(1 - alpha / 2, self.df) + t_quantile(power, self.df)) * self.error


def average(groups: Sequence[Sequence[float]]) -> Estimate:
    """The mean of the groups' means, each group (a task) with its own variance over its values (seeds).

    error² = Σ s²_t / n_t / T², df = (Σ v_t)² / Σ v_t² / (n_t - 1) with v_t = s²_t / n_t (Satterthwaite 1946;
    Welch 1947). Differences paired by seed go in as one group of differences a task.
    """
    means = [float(np.mean(g)) for g in groups]
    if any(len(g) < 2 for g in groups):
        return Estimate(float(np.mean(means)), math.nan, math.nan)
    v = np.array([np.var(g, ddof=1) / len(g) for g in groups])
    if v.sum() == 0:
        return Estimate(float(np.mean(means)), 0.0, math.nan)
    df = v.sum() ** 2 / np.sum(v**2 / (np.array([len(g) for g in groups]) - 1))
    return Estimate(float(np.mean(means)), float(np.sqrt(v.sum()) / len(groups)), float(df))


def t_quantile(p: float, df: float) -> float:
    """The quantile of Student's t, 0.5 ≤ p < 1, df ≥ 1 (not necessarily whole), to 1e-8, below df 3 to 1e-4.

    With t = √df tan θ the density is proportional to cos(θ)^(df - 1), which quadrature integrates exactly
    enough, and its inverse is found by bisection.
    """
    if not 0.5 <= p < 1 or not df >= 1:
        raise ValueError(f"t_quantile needs 0.5 <= p < 1 and df >= 1, not p={p}, df={df}")

    def area(theta: float) -> float:
        return theta / 2 * float(np.sum(_WEIGHTS * np.cos(theta / 2 * (_NODES + 1)) ** (df - 1)))

    # For large df the density is a narrow peak at 0: quadrature over all of it would miss it.
    edge = min(math.pi / 2, 40 / math.sqrt(df))
    wanted = (2 * p - 1) * area(edge)
    low, high = 0.0, edge
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if area(middle) < wanted else (low, middle)
    return math.sqrt(df) * math.tan(low)
