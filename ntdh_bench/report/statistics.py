"""Statistics over seeds: pure functions of numbers.

A seed is the unit: values are one number a seed, comparisons are paired by seed. Intervals say how
much the training noise moves a number, not how another sample of data would.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]

_ROUNDING = 1e-12  # a spread this small beside the values is rounding, not noise


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` seeds with its confidence interval (None where n = 1)."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class RandomEffects:
    """A random-effects mean over strata, its interval and p (None with one), and their spread.

    ``between`` is the estimated standard deviation of the true effects between strata, ``error``
    the standard error of the mean.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    between: float
    n: int
    error: float | None


# -- t statistics --------------------------------------------------------------------------------


def mean_ci(values: Iterable[float], level: float = 0.95) -> Estimate | None:
    """Return the mean and Student's t interval; None without values, no interval for one.

    Raises:
        ValueError: a value is not finite.
    """
    x = _finite(list(values))
    if x.size == 0:
        return None
    mean = float(x.mean())
    if x.size == 1:
        return Estimate(mean, None, None, 1)
    half = t_quantile((1 + level) / 2, x.size - 1) * _standard_error(x)
    return Estimate(mean, mean - half, mean + half, x.size)


def p_greater(values: Sequence[float], null: float = 0.0) -> float:
    """Return the one-sided p of "the mean exceeds ``null``" (t test over at least two values).

    Values without spread give p = 0 above ``null``, else 1: no noise leaves nothing to chance.

    Raises:
        ValueError: fewer than two values, or one is not finite.
    """
    x = _finite(values) - null
    if x.size < 2:
        raise ValueError("a t test needs at least two values")
    error = _standard_error(x)
    if error == 0:
        return 0.0 if x.mean() > 0 else 1.0
    return t_cdf(-float(x.mean()) / error, x.size - 1)


def p_between(values: Sequence[float], low: float, high: float) -> float:
    """Return the p of "the mean lies between ``low`` and ``high``"; either may be infinite.

    With both finite this is the equivalence test: two one-sided tests (Schuirmann 1987).

    Raises:
        ValueError: fewer than two values, or one is not finite.
    """
    above = p_greater(values, low) if math.isfinite(low) else 0.0
    below = p_greater([-value for value in values], -high) if math.isfinite(high) else 0.0
    return max(above, below)


def _finite(values: ArrayLike) -> Array:
    """Return numbers as an array; no comparison with NaN is true, so it would turn verdicts."""
    x = np.asarray(values, dtype=float)
    if not np.isfinite(x).all():
        raise ValueError(f"not all of these are finite numbers: {x.tolist()}")
    return x


def _standard_error(x: Array) -> float:
    spread = float(x.std(ddof=1))
    if spread <= _ROUNDING * float(np.abs(x).max(initial=0.0)):
        return 0.0
    return spread / math.sqrt(x.size)


def t_cdf(t: float, freedom: int) -> float:
    """Return the cumulative probability of Student's t distribution."""
    from scipy.special import stdtr  # the distribution alone: scipy.stats takes a second to import

    return float(stdtr(freedom, t))


def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


# -- several tests -------------------------------------------------------------------------------


def holm(ps: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values (Scand. J. Statist. 6, 1979), in the order given.

    Raises:
        ValueError: one of them is not finite.
    """
    _finite(ps)
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted


def p_at_least(ps: Sequence[float], count: int) -> float:
    """Return the p of "at least ``count`` of these hold" (Benjamini and Heller 2008).

    With all of them it is the largest p: the intersection-union test (Berger 1982).
    """
    return min(1.0, (len(ps) - count + 1) * sorted(ps)[count - 1])


# -- ranks ---------------------------------------------------------------------------------------


def spearman(x: ArrayLike, y: ArrayLike) -> Array:
    """Return Spearman's rank correlation along the last axis.

    Args:
        x: ``(..., K)``.
        y: ``(..., K)``.

    Returns:
        ``(...)`` in [-1, 1]; ties get their average rank; NaN where x or y is constant.
    """
    return _pearson(tied_ranks(x), tied_ranks(y))


def tied_ranks(values: ArrayLike) -> Array:
    """Return ranks; values that differ by rounding alone, which machines do differently, tie."""
    from scipy.stats import rankdata

    x = np.asarray(values, dtype=np.float64)
    steps = _ROUNDING * np.abs(x).max(-1, keepdims=True, initial=0.0)
    ranks: Array = rankdata(np.round(x / np.where(steps > 0, steps, 1.0)), axis=-1)
    return ranks


def _pearson(x: Array, y: Array) -> Array:
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    constant = scale == 0
    return np.where(constant, np.nan, (x * y).sum(-1) / np.where(constant, 1.0, scale))


# -- summary -------------------------------------------------------------------------------------


def random_effects(
    effects: Sequence[float], variances: Sequence[float], level: float = 0.95
) -> RandomEffects:
    """Summarise effects over strata whose true effects differ.

    The variance between strata is DerSimonian and Laird's (1986), the interval that of Hartung and
    Knapp (2001) and Sidik and Jonkman (2002): t with n - 1 degrees of freedom, and a variance never
    below that of the weights, so that strata that agree by chance do not narrow it.

    Args:
        effects: one a stratum, at least one.
        variances: of each within its stratum, > 0.
    """
    y, v = np.asarray(effects, dtype=float), np.asarray(variances, dtype=float)
    between = _between_variance(y, v)
    weights = 1 / (v + between)
    mean = float(weights @ y / weights.sum())
    if y.size == 1:
        return RandomEffects(mean, None, None, None, 0.0, 1, None)
    factor = max(1.0, float(weights @ (y - mean) ** 2) / (y.size - 1))
    error = math.sqrt(factor / float(weights.sum()))
    half = t_quantile((1 + level) / 2, y.size - 1) * error
    p = 2 * t_cdf(-abs(mean) / error, y.size - 1)
    return RandomEffects(mean, mean - half, mean + half, p, math.sqrt(between), y.size, error)


def _between_variance(y: Array, v: Array) -> float:
    weights = 1 / v
    mean = float(weights @ y / weights.sum())
    surplus = float(weights @ (y - mean) ** 2) - (y.size - 1)
    scale = float(weights.sum() - (weights**2).sum() / weights.sum())
    return max(0.0, surplus / scale) if scale > 0 else 0.0
