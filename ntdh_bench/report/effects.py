"""Effects within a data set, pooled over data sets, and the verdicts: pure functions of arrays.

The unit of a verdict is the data set. Within one, seeds are paired (one student, with KD and
without), and cells, such as masks, are units of their own: what is averaged over seeds alone holds
training noise only, and calls chance differences between cells an effect. Over data sets, effects
differ, and each counts the same. Gains are in accuracy points throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntdh_bench.report.statistics import (
    Array,
    holm,
    p_at_least,
    t_cdf,
    t_quantile,
)

HOLDS, FAILS, NO_EFFECT, INCONCLUSIVE, OUT_OF_SCOPE = (
    "holds", "fails", "no effect", "inconclusive", "out of scope",
)  # fmt: skip
NOT_RUN = "not run"
LEVEL = 0.95
MIN_SETS = 5  # fewer data sets decide nothing
MARGIN = 0.5  # effects within it, of whatever unit, are none (two one-sided tests)
MIN_SEEDS = 2
MIN_FREEDOM = 3  # of the residuals of a regression over cells
_DRAWS = 4999  # of a permutation test: p of 0.05 is known to within 0.006
_COLLINEAR = 1e6  # condition of predictors that cannot be told apart
_ROUNDING = 1e-9  # statistics this close beside their size are equal


@dataclass(frozen=True)
class Effect:
    """An effect within one data set.

    Attributes:
        value: in accuracy points (of slopes: a unit of dose, or a standard deviation of a cell's
            predictor).
        variance: of ``value`` over other seeds, and over other cells where these are units; 0 only
            where no seed shows an effect.
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
    """A mean over at least two data sets, whose true effects differ.

    Attributes:
        value: in the unit of the effects.
        error: standard error of ``value``, from the spread of the effects.
        between: estimated standard deviation of the true effects between data sets.
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
    y = y - y[:1]  # exactly 0 where a seed's runs are all alike
    found: Array = (x * y).sum(axis=0) / np.where(scale > 0, scale, np.nan)
    return found


def seed_mean(values: ArrayLike, cells: int = 1) -> Effect | None:
    """Return the mean over seeds of one value a seed: a slope, or a difference of gains or slopes.

    Its p are those of flipping signs, exact if the values are symmetric about 0 by chance alone.

    Args:
        values: ``(seeds,)``; NaN for seeds that do not count.
        cells: doses or cells behind a value.

    Returns:
        None with fewer than two seeds, or where all have the same value but 0, which leaves nothing
        to chance. Where it is 0 in all, as of a student that no change of the teacher reaches, so
        is the effect: leaving it out would favour effects.
    """
    x = np.asarray(values, dtype=float)
    x = x[~np.isnan(x)]
    if x.size < MIN_SEEDS or (x.any() and _is_constant(x)):
        return None
    less, greater = _tails(_signs(x.size) @ x)
    return Effect(
        float(x.mean()), float(x.var(ddof=1)) / x.size, less, greater, x.size, cells, x.size - 1
    )


def dose_slope(gain: ArrayLike, doses: Sequence[float]) -> Effect | None:
    """Return the mean over seeds of the slope of the gain in the dose.

    Its p are those of permuting doses within seeds, studentised by the slopes' spread over seeds:
    exact if doses do nothing, and near it if the slope alone is 0 (doses close to each other make
    students alike, seeds respond differently), where permuted slopes themselves would mislead.

    Args:
        gain: ``(..., doses, seeds)`` in points; what stands before, such as the two directions of a
            data set, is averaged first. A seed counts if it has all of them.
        doses: ``(doses,)``.

    Returns:
        None where :func:`seed_mean` of the slopes is.
    """
    y = np.asarray(gain, dtype=float)
    y = y.reshape(-1, *y.shape[-2:]).mean(axis=0)
    y = y[:, ~np.isnan(y).any(axis=0)]
    found = seed_mean(slopes(y, doses), len(y))
    if found is None:
        return None
    y = y - y[:1]
    permuted = np.einsum("rsd,ds->rs", _dose_weights(tuple(doses), y.shape[1]), y)
    less, greater = _tails(_ratios(permuted.mean(axis=1), permuted.std(axis=1)))
    return replace(found, p_less=less, p_greater=greater)


def cell_slopes(
    gain: ArrayLike, predictors: ArrayLike, contrasts: ArrayLike | None = None
) -> list[Effect] | None:
    """Return partial regression slopes of the gain over cells, each given the other predictors.

    Cells are the units, seeds are averaged: a predictor measured on few rows, such as the teacher's
    accuracy, is too noisy in one seed to be held constant, and what it drives would be laid to the
    others. What all cells of a seed share, such as its student without KD, cancels; cells with
    controls of their own must not be compared (a control good by chance lowers gain and divergence
    at once). Their p are those of permuting the residuals given the other predictors (Freedman and
    Lane 1983), studentised.

    Args:
        gain: ``(cells, seeds)`` in points.
        predictors: ``(k, cells, seeds)``; each counts in standard deviations over the cells.
        contrasts: ``(m, k)`` of the slopes, ``[[1, -1]]`` for "the first less the second"; if not
            given, each slope.

    Returns:
        One a contrast; 0 where the gain is the same in all cells. None with fewer than two seeds
        that have all cells (cells without any run aside), with too few cells, or where a predictor
        does not vary by itself.
    """
    y, x = _complete(np.asarray(gain, dtype=float), np.asarray(predictors, dtype=float))
    seeds, freedom = y.shape[1], len(y) - len(x) - 1
    if seeds < MIN_SEEDS or freedom < MIN_FREEDOM:
        return None
    y, x = y.mean(axis=1), x.mean(axis=2)
    if any(map(_is_constant, x)):
        return None
    y = np.zeros_like(y) if _is_constant(y) else y - y.mean()
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    if np.linalg.cond(x) > _COLLINEAR:
        return None
    wanted = np.eye(len(x)) if contrasts is None else np.asarray(contrasts, dtype=float)
    return [_cell_slope(y, x, contrast, seeds) for contrast in wanted]


def run_slopes(
    gain: ArrayLike, predictors: ArrayLike, contrasts: ArrayLike | None = None
) -> list[Effect] | None:
    """Return the same of cells that are other ones in each seed, such as random masks.

    What is drawn in a seed has nothing in common with what is drawn in another but the cell's
    settings, such as a ratio: means over seeds differ by these alone. Here a run is compared with
    others of its seed, less what the seeds of its cell share (:func:`run_part`), so that chance
    alone decides what is left. A slope is one a seed, and its mean is judged as
    :func:`seed_mean` says.

    Args:
        gain: ``(cells, seeds)`` in points.
        predictors: ``(k, cells, seeds)``; each counts in standard deviations of what is left of it.
        contrasts: as of :func:`cell_slopes`.

    Returns:
        As :func:`cell_slopes`; an effect is None where :func:`seed_mean` of the slopes is.
    """
    y, x = _complete(np.asarray(gain, dtype=float), np.asarray(predictors, dtype=float))
    if y.shape[1] < MIN_SEEDS or len(y) - len(x) - 1 < MIN_FREEDOM:
        return None
    size = np.abs(x).max(axis=(1, 2), keepdims=True)
    y, x = run_part(y), run_part(x)
    scale = x.std(axis=(1, 2), keepdims=True)
    if (scale <= _ROUNDING * size).any():
        return None
    of_seed = np.moveaxis(x / scale, 2, 0)  # (seeds, k, cells)
    if np.linalg.cond(of_seed).max() > _COLLINEAR:
        return None
    slopes = np.einsum("skc,cs->ks", np.linalg.pinv(of_seed.swapaxes(1, 2)), y)
    wanted = np.eye(len(x)) if contrasts is None else np.asarray(contrasts, dtype=float)
    found = [seed_mean(contrast @ slopes, len(y)) for contrast in wanted]
    return [effect for effect in found if effect] if all(found) else None


def run_part(values: Array) -> Array:
    """Return what is a run's own: less what its seed and what its cell share.

    Args:
        values: ``(..., cells, seeds)``.
    """
    over_cells, over_seeds = (values.mean(axis=axis, keepdims=True) for axis in (-2, -1))
    own: Array = values - over_cells - over_seeds + over_cells.mean(axis=-1, keepdims=True)
    return own


def average(effects: Sequence[Effect]) -> Effect:
    """Return the mean of effects of one data set, such as its two directions.

    They may share seeds, teachers and controls: the variance is that of effects that depend on
    each other wholly, which overstates it where they do not.

    Raises:
        ValueError: there is none.
    """
    if not effects:
        raise ValueError("an average needs at least one effect")
    if len(effects) == 1:
        return effects[0]
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


def _cell_slope(y: Array, x: Array, contrast: Array, seeds: int) -> Effect:
    """Return a contrast of the slopes of ``y`` ``(n,)`` on ``x`` ``(k, n)``, both centred."""
    freedom = len(y) - len(x) - 1
    solve = np.linalg.pinv(x.T)  # (k, n)
    beta = solve @ y
    noise = float(((y - beta @ x) ** 2).sum()) / freedom
    variance = noise * float(((contrast @ solve) ** 2).sum())
    # The model in which the contrast is 0, and its residuals, permuted.
    rest = np.linalg.svd(contrast[None])[2][1:] @ x
    permuted = (y - np.linalg.pinv(rest) @ (rest @ y))[_orders(len(y))]
    betas = permuted @ solve.T
    errors = np.sqrt(((permuted - betas @ x) ** 2).sum(axis=1))
    less, greater = _tails(_ratios(betas @ contrast, errors))
    value = float(contrast @ beta)
    return Effect(value, variance, less, greater, seeds, len(y), freedom)


# -- permutations --------------------------------------------------------------------------------


@lru_cache
def _signs(n: int) -> Array:
    """Return signs of ``n`` values ``(R + 1, n)``, drawn at random; row 0: as they are."""
    drawn = np.random.default_rng(0).choice([-1.0, 1.0], size=(_DRAWS, n))
    return np.vstack([np.ones(n), drawn])


@lru_cache
def _orders(n: int) -> NDArray[np.int64]:
    """Return orders of ``n`` cells ``(R + 1, n)``, drawn at random; row 0: as they are."""
    as_they_are = np.arange(n)
    drawn = np.random.default_rng(0).permuted(np.tile(as_they_are, (_DRAWS, 1)), axis=1)
    return np.vstack([as_they_are, drawn])


@lru_cache
def _dose_weights(doses: tuple[float, ...], seeds: int) -> Array:
    """Return what makes a slope of gains, doses permuted within seeds: ``(R + 1, seeds, doses)``.

    Row 0: as they are.
    """
    centred = np.array(doses) - np.mean(doses)
    as_they_are = np.tile(centred / (centred**2).sum(), (1, seeds, 1))
    rows = np.tile(as_they_are, (_DRAWS, 1, 1))
    return np.vstack([as_they_are, np.random.default_rng(0).permuted(rows, axis=2)])


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
    """Return the mean of effects, one a data set, each counting the same.

    None with fewer than two, or with values that are all alike, which leave nothing to chance.

    A random-effects mean after Hartung and Knapp (2001) with equal weights: Student's t over data
    sets. Weights of inverse variance would be closer if variances were known and effects alike.
    Here the noise of data sets differs by a factor of ten, and those near 100 % have little noise
    because they have little to gain: in simulated studies, intervals with weights hold the mean in
    89 to 99 % of cases, and in 38 to 63 % where effects are as large as the noise; these in 94 %
    or more, and in 92 to 95 (``results/study/nulls.csv``).
    """
    values = np.array([effect.value for effect in effects])
    if len(effects) < 2 or _is_constant(values):
        return None
    spread = float(values.var(ddof=1))
    if not spread:  # what is too small to be squared
        return None
    noise = float(np.mean([effect.variance for effect in effects]))
    between = math.sqrt(max(0.0, spread - noise))
    return Pooled(float(values.mean()), math.sqrt(spread / values.size), between, values.size)


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
