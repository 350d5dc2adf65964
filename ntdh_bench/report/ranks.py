"""Methods ranked over data sets: pure functions of one score a method and data set.

The data set is the unit, as Demšar has it (JMLR 7, 2006): Friedman's test asks whether any method
differs from the others, and Nemenyi's critical difference how far apart two mean ranks must lie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ntdh_bench.report.statistics import Array, tied_ranks

#: Fewer data sets, or methods, are ranked but not tested.
FEWEST_SETS, FEWEST_METHODS = 5, 3
LEVEL = 0.05


@dataclass(frozen=True)
class Ranking:
    """Mean ranks over data sets, and what can be told of their differences.

    Attributes:
        methods: the best first.
        ranks: of each, 1 is best; methods that tie on a data set share their mean rank.
        sets: the data sets.
        statistic: Friedman's chi squared, with ``len(methods) - 1`` degrees of freedom; None where
            there are too few methods or data sets for a test.
        p: of no difference between any methods.
        difference: of two mean ranks, from which on Nemenyi's test tells them apart at 5 %.
    """

    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    sets: tuple[str, ...]
    statistic: float | None = None
    p: float | None = None
    difference: float | None = None

    @property
    def alike(self) -> tuple[tuple[int, int], ...]:
        """First and last of each run of methods that are not told apart, none within another.

        Where Friedman's test finds nothing, that is all of them.
        """
        if self.p is None or self.difference is None:
            return ()
        if self.p >= LEVEL:
            return ((0, len(self.ranks) - 1),)
        ends = [
            _last_within(self.ranks, first, self.difference) for first in range(len(self.ranks))
        ]
        return tuple(
            (first, last)
            for first, last in enumerate(ends)
            if last > first and (first == 0 or last > ends[first - 1])
        )


def rank(scores: Mapping[str, Mapping[str, float]]) -> Ranking:
    """Return the ranking of methods by their scores, of which the highest is best.

    Args:
        scores: data set to method to score; every data set has every method.

    Raises:
        ValueError: there is no data set, or one lacks a method.
    """
    sets, methods = list(scores), sorted({name for found in scores.values() for name in found})
    if not sets or any(len(found) < len(methods) for found in scores.values()):
        raise ValueError("ranks are of data sets that all have all methods")
    ranks = tied_ranks([[-scores[name][method] for method in methods] for name in sets])
    means = ranks.mean(0)
    order = sorted(range(len(methods)), key=lambda index: (means[index], methods[index]))
    names = tuple(methods[index] for index in order)
    found = tuple(float(means[index]) for index in order)
    if len(sets) < FEWEST_SETS or len(methods) < FEWEST_METHODS:
        return Ranking(names, found, tuple(sets))
    statistic, p = _friedman(ranks)
    difference = critical_difference(len(methods), len(sets))
    return Ranking(names, found, tuple(sets), statistic, p, difference)


def critical_difference(methods: int, sets: int, level: float = LEVEL) -> float:
    """Return how far apart two mean ranks must lie for Nemenyi's test to tell them apart."""
    from scipy.stats import studentized_range

    quantile = float(studentized_range.ppf(1 - level, methods, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(methods * (methods + 1) / (6 * sets))


def p_signed_ranks(gains: Sequence[float]) -> float | None:
    """Return the two-sided p of Wilcoxon's signed-rank test of no gain, one a data set.

    None of fewer data sets than are tested.
    """
    from scipy.stats import wilcoxon

    if len(gains) < FEWEST_SETS:
        return None
    return float(wilcoxon(gains).pvalue) if any(gains) else 1.0


def _friedman(ranks: Array) -> tuple[float, float]:
    """Return Friedman's statistic, corrected for ties, and its p."""
    from scipy.stats import friedmanchisquare

    if (ranks == ranks[:, :1]).all():  # nothing but ties
        return 0.0, 1.0
    statistic, p = friedmanchisquare(*ranks.T)
    return float(statistic), float(p)


def _last_within(ranks: Sequence[float], first: int, difference: float) -> int:
    """Return the last of the ascending ranks that lies nearer to one of them than a difference."""
    near = [last for last in range(first, len(ranks)) if ranks[last] - ranks[first] < difference]
    return near[-1]
