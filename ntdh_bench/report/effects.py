"""Effects within a data set, pooled over data sets, and the verdicts: pure functions of arrays.

The unit of a verdict is the data set. Within one, seeds are paired (one student, with KD and
without), and cells, such as masks, are units of their own: what is averaged over seeds alone holds
training noise only, and calls chance differences between cells an effect. Over data sets, effects
differ; a random-effects mean says where they lie. Gains are in accuracy points throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntdh_bench.report.statistics import (
    Array,
    holm,
    p_at_least,
    random_effects,
    t_cdf,
    t_quantile,
)

HOLDS, FAILS, NO_EFFECT, INCONCLUSIVE, OUT_OF_SCOPE = (
    "holds", "fails", "no effect", "inconclusive", "out of scope",
)  # fmt: skip
LEVEL = 0.95
MIN_SEEDS = 2
MIN_FREEDOM = 3  # of the residuals of a regression over cells
_DRAWS = 4999  # of a permutation test: p of 0.05 is known to within 0.006
_ROUNDING = 1e-9  # statistics this close beside their size are equal


@dataclass(frozen=True)
class Effect:
    """An effect within one data set.

    Attributes:
        value: in accuracy points (of slopes: a unit of dose, or a standard deviation of a cell's
            predictor).
        variance: of ``value`` over other seeds, and over other cells where these are units; > 0.
        p_less: permutation p, one-sided, of an effect below 0; in (0, 1].
        p_greater: of one above 0.
        seeds: that count: those with all runs.
        cells: doses, or cells; 1 where neither is varied.
        freedom: degrees of freedom of ``variance``.
    """

    value: float
    variance: float
    p_less: float
    p_greater: float
    seeds: int
    cells: int
    freedom: int

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return Student's t interval of the data set alone."""
        half = t_quantile((1 + level) / 2, self.freedom) * math.sqrt(self.variance)
        return self.value - half, self.value + half


@dataclass(frozen=True)
class Pooled:
    """A random-effects mean over at least two data sets.

    Attributes:
        value: in the unit of the effects.
        error: standard error of ``value`` (Hartung and Knapp 2001).
        between: standard deviation of the true effects between data sets.
        n: data sets; t statistics have n - 1 degrees of freedom.
    """

    value: float
    error: float
    between: float
    n: int

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval of the mean."""
        return self.interval()[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval of the mean."""
        return self.interval()[1]

    @property
    def p_less(self) -> float:
        """One-sided p of "the mean is below 0"."""
        return self._p_below(0.0)

    @property
    def p_greater(self) -> float:
        """One-sided p of "the mean is above 0"."""
        return self._p_above(0.0)

    def p_within(self, margin: float) -> float:
        """Return the p of "the mean lies within ± margin": two one-sided tests (TOST)."""
        return max(self._p_below(margin), self._p_above(-margin))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the interval of the mean."""
        half = t_quantile((1 + level) / 2, self.n - 1) * self.error
        return self.value - half, self.value + half

    def prediction(self, level: float = LEVEL) -> tuple[float, float]:
        """Return where the effect of one more data set lies (t, n - 2; n at least 3)."""
        spread = math.hypot(self.error, self.between)
        half = t_quantile((1 + level) / 2, self.n - 2) * spread
        return self.value - half, self.value + half

    def _p_below(self, bound: float) -> float:
        return t_cdf((self.value - bound) / self.error, self.n - 1)

    def _p_above(self, bound: float) -> float:
        return t_cdf((bound - self.value) / self.error, self.n - 1)


# -- within a data set ---------------------------------------------------------------------------


def slopes(gain: ArrayLike, doses: ArrayLike) -> Array:
    """Return the least-squares slope of the gain in the dose, by seed.

    What all doses of a seed share, such as its student without KD, cancels.

    Args:
        gain: ``(doses, seeds)`` in points.
        doses: ``(doses,)``, or ``(doses, seeds)`` where seeds have doses of their own, in nats say.

    Returns:
        ``(seeds,)``; NaN for a seed that lacks a run, or whose doses are all the same.
    """
    y = np.asarray(gain, dtype=float)
    x = np.asarray(doses, dtype=float)
    x = np.broadcast_to(x[:, None] if x.ndim == 1 else x, y.shape)
    x = x - x.mean(axis=0)
    scale = (x**2).sum(axis=0)
    found: Array = (x * y).sum(axis=0) / np.where(scale > 0, scale, np.nan)
    return found


def seed_mean(values: ArrayLike, cells: int = 1) -> Effect | None:
    """Return the mean over seeds of one value a seed: a slope, or a difference of gains or slopes.

    Its p are those of flipping signs, exact if the values are symmetric about 0 by chance alone.

    Args:
        values: ``(seeds,)``; NaN for seeds that do not count.
        cells: doses or cells behind a value.

    Returns:
        None with fewer than two seeds, or where nothing varies over them.
    """
    x = np.asarray(values, dtype=float)
    x = x[~np.isnan(x)]
    if x.size < MIN_SEEDS or _is_constant(x):
        return None
    less, greater = _tails(_signs(x.size) @ x)
    return Effect(
        float(x.mean()), float(x.var(ddof=1)) / x.size, less, greater, x.size, cells, x.size - 1
    )


def dose_slope(gain: ArrayLike, doses: ArrayLike) -> Effect | None:
    """Return the mean over seeds of the slope of the gain in the dose.

    Args:
        gain: ``(..., doses, seeds)`` in points; what stands before, such as the two directions of a
            data set, is averaged first. A seed counts if it has all of them.
        doses: ``(doses,)``.

    Returns:
        None with fewer than two such seeds, or where nothing varies over them.
    """
    y = np.asarray(gain, dtype=float)
    y = y.reshape(-1, *y.shape[-2:]).mean(axis=0)
    return seed_mean(slopes(y, doses), len(y))


def cell_slopes(
    gain: ArrayLike, predictors: ArrayLike, contrasts: ArrayLike | None = None
) -> list[Effect] | None:
    """Return partial regression slopes of the gain over cells, each given the other predictors.

    Gains and predictors are centred within seeds, so that what all cells of a seed share, such as
    its student without KD, cancels. Cells are the units: their p are those of permuting whole
    cells, all seeds at once, of the residuals given the other predictors (Freedman and Lane 1983),
    and the variance is clustered by cells and by seeds (Cameron, Gelbach and Miller 2011).

    Args:
        gain: ``(cells, seeds)`` in points.
        predictors: ``(k, cells, seeds)``; each is divided by its standard deviation within seeds.
        contrasts: ``(m, k)`` of the slopes, ``[[1, -1]]`` for "the first less the second"; if not
            given, each slope.

    Returns:
        One a contrast; None with fewer than two seeds that have all cells (cells without any run
        aside), with too few cells, or where a predictor or the gain does not vary by itself.
    """
    y, x = _complete(np.asarray(gain, dtype=float), np.asarray(predictors, dtype=float))
    freedom = len(y) - len(x) - 1
    if y.shape[1] < MIN_SEEDS or freedom < MIN_FREEDOM:
        return None
    y, x = y - y.mean(axis=0), x - x.mean(axis=1, keepdims=True)
    scale = np.sqrt((x**2).mean(axis=(1, 2), keepdims=True))
    if not scale.all() or _is_constant(y.ravel()):
        return None
    x = x / scale
    if np.linalg.cond(x.reshape(len(x), -1)) > 1e6:
        return None
    wanted = np.eye(len(x)) if contrasts is None else np.asarray(contrasts, dtype=float)
    return [_cell_slope(y, x, contrast, freedom) for contrast in wanted]


def average(effects: Sequence[Effect]) -> Effect:
    """Return the mean of effects of one data set, such as its two directions.

    They may share seeds, teachers and controls: the variance is that of effects that depend on
    each other wholly, which overstates it where they do not.

    Raises:
        ValueError: there is none.
    """
    if not effects:
        raise ValueError("an average needs at least one effect")
    return Effect(
        float(np.mean([effect.value for effect in effects])),
        float(np.mean([math.sqrt(effect.variance) for effect in effects])) ** 2,
        _combined([effect.p_less for effect in effects]),
        _combined([effect.p_greater for effect in effects]),
        min(effect.seeds for effect in effects),
        min(effect.cells for effect in effects),
        min(effect.freedom for effect in effects),
    )


def _combined(ps: Sequence[float]) -> float:
    """Return the p of the mean of normal scores, at its largest variance: wholly dependent."""
    from scipy.special import ndtr, ndtri

    return float(ndtr(np.mean(ndtri(np.clip(ps, _ROUNDING, 1 - _ROUNDING)))))


def _complete(gain: Array, predictors: Array) -> tuple[Array, Array]:
    """Leave out cells without any run, then seeds that lack a cell."""
    there = ~np.isnan(gain) & ~np.isnan(predictors).any(axis=0)
    cells = there.any(axis=1)
    seeds = there[cells].all(axis=0)
    return gain[cells][:, seeds], predictors[:, cells][:, :, seeds]


def _cell_slope(y: Array, x: Array, contrast: Array, freedom: int) -> Effect:
    """Return a contrast of the slopes of ``y`` ``(n, S)`` on ``x`` ``(k, n, S)``, both centred."""
    n, seeds = y.shape
    flat = x.reshape(len(x), -1)
    solve = np.linalg.pinv(flat.T)  # (k, n S)
    beta = solve @ y.ravel()
    weights = (contrast @ solve).reshape(n, seeds)
    scores = weights * (y - np.tensordot(beta, x, 1))
    by_cell = (scores.sum(axis=1) ** 2).sum() * n / freedom
    by_seed = (scores.sum(axis=0) ** 2).sum() * seeds / (seeds - 1)
    variance = max(by_cell, by_cell + by_seed - (scores**2).sum())
    less, greater = _permuted_cells(y, x, contrast)
    return Effect(float(contrast @ beta), float(variance), less, greater, seeds, n, freedom)


def _permuted_cells(y: Array, x: Array, contrast: Array) -> tuple[float, float]:
    """Return both one-sided p of a contrast of slopes, studentised by cells.

    Permuted are the residuals of the model in which the contrast is 0 (Freedman and Lane), so that
    a permuted slope is a sum of one entry a cell of a matrix, cells by cells.
    """
    n, flat = len(y), x.reshape(len(x), -1)
    rest = np.linalg.svd(contrast[None])[2][1:] @ flat
    residual = (y.ravel() - np.linalg.pinv(rest) @ (rest @ y.ravel())).reshape(y.shape)
    solve = np.linalg.pinv(flat.T).reshape(x.shape)
    weights = np.tensordot(contrast, solve, 1)
    drawn = (np.arange(n), _permutations(n))
    beta = np.stack([each[drawn].sum(axis=-1) for each in solve @ residual.T], axis=-1)
    leverage = (weights * x).sum(axis=-1).T  # (n, k): what each slope takes from a cell's score
    scores = (weights @ residual.T)[drawn] - beta @ leverage.T
    return _tails(_ratios(beta @ contrast, np.sqrt((scores**2).sum(axis=-1))))


# -- permutations --------------------------------------------------------------------------------


@lru_cache
def _signs(n: int) -> Array:
    """Return signs of ``n`` values ``(R + 1, n)``, drawn at random; row 0: as they are."""
    drawn = np.random.default_rng(0).choice([-1.0, 1.0], size=(_DRAWS, n))
    return np.vstack([np.ones(n), drawn])


@lru_cache
def _permutations(n: int) -> NDArray[np.int64]:
    """Return orders of ``n`` cells ``(R + 1, n)``, drawn at random; row 0: as they are."""
    as_they_are = np.arange(n)
    drawn = np.random.default_rng(0).permuted(np.tile(as_they_are, (_DRAWS, 1)), axis=1)
    return np.vstack([as_they_are, drawn])


def _ratios(values: Array, errors: Array) -> Array:
    """Return t statistics; without an error, infinite ones."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values == 0, 0.0, values / errors)


def _tails(statistics: Array) -> tuple[float, float]:
    """Return the shares of statistics at most, and at least, as large as the first, which counts.

    So p is never 0, and the test keeps its level (Phipson and Smyth 2010).
    """
    first, slack = statistics[0], _ROUNDING * np.abs(statistics[0])
    return float((statistics <= first + slack).mean()), float((statistics >= first - slack).mean())


def _is_constant(values: Array) -> bool:
    return bool(np.ptp(values) <= _ROUNDING * np.abs(values).max())


# -- over data sets ------------------------------------------------------------------------------


def pool(effects: Sequence[Effect]) -> Pooled | None:
    """Return the random-effects mean of effects, one a data set; None with fewer than two."""
    if len(effects) < 2:
        return None
    found = random_effects(
        [effect.value for effect in effects], [effect.variance for effect in effects]
    )
    assert found.error is not None
    return Pooled(found.mean, found.error, found.between, found.n)


# -- verdicts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sides:
    """What can be said of a claim: three p, each one-sided.

    Attributes:
        holds: of an effect where the claim puts it.
        fails: of one on the other side of 0.
        within: of one within the margin (TOST).
    """

    holds: float
    fails: float
    within: float


@dataclass(frozen=True)
class Decision:
    """The verdict on a claim.

    Attributes:
        verdict: ``holds``, ``fails``, ``no effect`` or ``inconclusive``.
        p: two-sided, uncorrected: twice the smaller of both sides.
        p_holm: two-sided, corrected for the family.
    """

    verdict: str
    p: float
    p_holm: float


def sides(pooled: Pooled, margin: float, sign: int = 1) -> Sides:
    """Return the sides of the claim "the mean is above 0" (``sign`` -1: below)."""
    less, greater = pooled.p_less, pooled.p_greater
    holds, fails = (greater, less) if sign > 0 else (less, greater)
    return Sides(holds, fails, pooled.p_within(margin))


def every(parts: Sequence[Sides]) -> Sides:
    """Return the sides of the claim "all of these": it fails if any part does.

    It holds, or shows no effect, by intersection-union; it fails by Bonferroni over its parts.
    """
    return Sides(
        max(part.holds for part in parts),
        p_at_least([part.fails for part in parts], 1),
        max(part.within for part in parts),
    )


def decide(family: Sequence[Sides], level: float = LEVEL) -> list[Decision]:
    """Return the verdicts on a family of claims, both directions treated alike.

    With alpha = 1 - level, the chance that any verdict of the family is false is at most alpha,
    however the claims depend on each other:

    - *holds*: Holm over the family's p towards the claims, at alpha / 2;
    - *fails*: Holm over the p against them, at alpha / 2;
    - *no effect*: both of its one-sided tests, by Bonferroni, at alpha / 2.

    A false verdict says of some mean that it is larger than it is (above 0, or above -margin), or
    smaller than it is. "Above -margin" follows from "above 0", so one Holm procedure that steps
    from the former to the latter within a claim before it frees the claim's share (Bretz et al.
    2009) keeps what says "larger" to alpha / 2; the rule above is that, with fewer rejections.
    """
    alpha, m = 1 - level, len(family)
    holds = [min(1.0, 2 * p) for p in holm([claim.holds for claim in family])]
    fails = [min(1.0, 2 * p) for p in holm([claim.fails for claim in family])]
    decisions = []
    for claim, towards, against in zip(family, holds, fails, strict=True):
        p = min(1.0, 2 * min(claim.holds, claim.fails))
        verdict = INCONCLUSIVE
        if towards < alpha:
            verdict = HOLDS
        elif against < alpha:
            verdict = FAILS
        elif 2 * m * claim.within < alpha:
            verdict = NO_EFFECT
        decisions.append(Decision(verdict, p, min(towards, against)))
    return decisions
