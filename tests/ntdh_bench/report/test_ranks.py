from __future__ import annotations

import random
from itertools import combinations, product
from statistics import fmean

import pytest
from scipy.stats import chi2, friedmanchisquare

from ntdh_bench.report.ranks import Ranking, critical_difference, p_signed_ranks, rank

# AUC of C4.5 and three of its variants on 14 data sets: Table 6 of Demsar (JMLR 7, 2006), whose
# text gives the ranks, the statistic and the critical difference.
C45 = {
    "adult": (0.763, 0.768, 0.771, 0.798),
    "breast cancer": (0.599, 0.591, 0.590, 0.569),
    "wisconsin": (0.954, 0.971, 0.968, 0.967),
    "cmc": (0.628, 0.661, 0.654, 0.657),
    "ionosphere": (0.882, 0.888, 0.886, 0.898),
    "iris": (0.936, 0.931, 0.916, 0.931),
    "liver": (0.661, 0.668, 0.609, 0.685),
    "lung cancer": (0.583, 0.583, 0.563, 0.625),
    "lymphography": (0.775, 0.838, 0.866, 0.875),
    "mushroom": (1.000, 1.000, 1.000, 1.000),
    "primary tumor": (0.940, 0.962, 0.965, 0.962),
    "rheum": (0.619, 0.666, 0.614, 0.669),
    "voting": (0.972, 0.981, 0.975, 0.9749),  # 0.975 in print, but ranked third
    "wine": (0.957, 0.978, 0.946, 0.970),
}
VARIANTS = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")
DEMSAR = {name: dict(zip(VARIANTS, found, strict=True)) for name, found in C45.items()}


def test_the_worked_example_of_demsar() -> None:
    found = rank(DEMSAR)
    assert found.methods == ("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5")
    assert found.ranks == pytest.approx((1.964, 2.0, 2.893, 3.143), abs=5e-4)
    assert plain_friedman(found) == pytest.approx(9.28, abs=0.01)  # not corrected for ties
    assert found.statistic == pytest.approx(plain_friedman(found) / corrected_by(C45))
    assert found.statistic == friedmanchisquare(*zip(*C45.values(), strict=True)).statistic
    assert found.p == pytest.approx(chi2.sf(found.statistic, 3))
    assert found.difference == pytest.approx(1.25, abs=0.005)  # 2.569 * sqrt(4 * 5 / (6 * 14))


def plain_friedman(found: Ranking) -> float:
    """The statistic as the paper prints it: of mean ranks alone."""
    n, k = len(found.sets), len(found.methods)
    return 12 * n / (k * (k + 1)) * (sum(r * r for r in found.ranks) - k * (k + 1) ** 2 / 4)


def corrected_by(scores: dict[str, tuple[float, ...]]) -> float:
    """1 - sum of t^3 - t over tied groups / (n k (k^2 - 1))."""
    ties = [row.count(value) for row in scores.values() for value in set(row)]
    n, k = len(scores), 4
    return 1 - sum(t**3 - t for t in ties) / (n * k * (k * k - 1))


@pytest.mark.parametrize(
    ("methods", "quantile"),
    [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (8, 3.031),
     (9, 3.102), (10, 3.164)],
)  # fmt: skip
def test_critical_values_are_those_of_demsars_table(methods: int, quantile: float) -> None:
    """Table 5 (a), q at 0.05."""
    difference = critical_difference(methods, 12)
    assert difference / (methods * (methods + 1) / 72) ** 0.5 == pytest.approx(quantile, abs=0.0011)


def test_ranks_by_counting() -> None:
    """A rank is 1, one for each better method, and a half for each that ties."""
    noise = random.Random(0)
    methods = [f"m{index}" for index in range(9)]
    scores = {f"s{n}": {m: noise.randrange(6) / 10 for m in methods} for n in range(7)}
    found = rank(scores)
    for method, mean in zip(found.methods, found.ranks, strict=True):
        ranks = [
            0.5 + sum((v > own[method]) + (v == own[method]) / 2 for v in own.values())
            for own in scores.values()
        ]
        assert mean == pytest.approx(fmean(ranks))
    assert list(found.ranks) == sorted(found.ranks)
    assert sum(found.ranks) == pytest.approx(sum(range(1, 10)))


def test_scores_that_differ_by_rounding_tie() -> None:
    thirds = {"a": 0.1 + 0.2, "b": 0.3, "c": 0.2}
    assert rank({"one": thirds, "two": thirds}).ranks == (1.5, 1.5, 3.0)


def ranking(*ranks: float, p: float = 0.01, difference: float = 1.0) -> Ranking:
    return Ranking(tuple(map(str, ranks)), ranks, tuple("abcdef"), 10.0, p, difference)


def test_bars_join_what_is_not_told_apart() -> None:
    """Every pair nearer than the difference has one, no other has, and none is within another."""
    noise = random.Random(1)
    for count in (3, 6, 12):
        found = ranking(
            *sorted(noise.uniform(1, count) for _ in range(count)), difference=count / 4
        )
        for first, second in combinations(range(count), 2):
            joined = any(start <= first and second <= end for start, end in found.alike)
            assert joined == (found.ranks[second] - found.ranks[first] < count / 4)
        assert not any(
            a != b and a[0] <= b[0] and b[1] <= a[1] for a in found.alike for b in found.alike
        )
    assert ranking(1.0, 2.0, 3.0).alike == ()  # a difference is one from its size on


def test_without_a_difference_between_any_all_are_joined() -> None:
    assert ranking(1.0, 2.0, 4.0, p=0.05).alike == ((0, 2),)


def test_too_few_are_ranked_but_not_tested() -> None:
    four = dict(list(DEMSAR.items())[:4])
    pairs = {name: {m: found[m] for m in VARIANTS[:2]} for name, found in DEMSAR.items()}
    for scores in (four, pairs):
        found = rank(scores)
        assert (found.statistic, found.p, found.difference, found.alike) == (None, None, None, ())
        assert len(found.ranks) == len(found.methods)


def test_nothing_but_ties() -> None:
    found = rank({name: dict.fromkeys("abc", 0.5) for name in "vwxyz"})
    assert (found.ranks, found.statistic, found.p) == ((2.0, 2.0, 2.0), 0.0, 1.0)
    assert found.alike == ((0, 2),)


def test_the_p_of_gains_counts_signs() -> None:
    """Of all 2^n ways to give the ranks a sign, those with as small a sum on one side."""
    gains = [0.4, -0.1, 0.9, 1.3, 0.2, 2.0, -0.3]
    ranks = [1 + sum(abs(other) < abs(gain) for other in gains) for gain in gains]
    least = sum(rank for rank, gain in zip(ranks, gains, strict=True) if gain < 0)
    sums = [
        min(below, sum(ranks) - below)
        for signs in product((0, 1), repeat=len(gains))
        for below in (sum(sign * rank for sign, rank in zip(signs, ranks, strict=True)),)
    ]
    expected = fmean(total <= least for total in sums)
    assert p_signed_ranks(gains) == pytest.approx(expected)
    assert p_signed_ranks(gains[:4]) is None
    assert p_signed_ranks([0.0] * 6) == 1.0


def test_every_data_set_has_every_method() -> None:
    for scores in ({}, {"one": {"a": 1.0, "b": 2.0}, "two": {"a": 1.0}}):
        with pytest.raises(ValueError, match="all have all methods"):
            rank(scores)
