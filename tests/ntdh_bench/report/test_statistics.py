from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ntdh_bench.report import statistics
from tests.typed import some

SAMPLES = (
    [1.0, 2.5, 0.3, 4.0, 2.2],
    [-0.2, 0.1, 0.4],
    [68.5, 68.5, 69.1, 70.3, 71.3, 70.1, 59.85, 72.4],  # with ties
    [3.0, 5.0],
)


@pytest.mark.parametrize("values", SAMPLES)
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_mean_and_interval_are_those_of_scipy(values: list[float], level: float) -> None:
    low, high = stats.t.interval(level, len(values) - 1, np.mean(values), stats.sem(values))
    found = some(statistics.mean_ci(values, level))
    assert found.n == len(values)
    assert [found.mean, found.low, found.high] == pytest.approx([np.mean(values), low, high])


def test_one_value_has_no_interval_and_none_no_estimate() -> None:
    assert statistics.mean_ci([0.7]) == statistics.Estimate(0.7, None, None, 1)
    assert statistics.mean_ci([]) is None


@pytest.mark.parametrize("values", SAMPLES)
@pytest.mark.parametrize("null", [-1.0, 0.0, 2.0])
def test_one_sided_p_is_that_of_scipy(values: list[float], null: float) -> None:
    expected = stats.ttest_1samp(values, null, alternative="greater").pvalue
    assert statistics.p_greater(values, null) == pytest.approx(expected)


def test_a_one_sided_p_needs_two_values_and_copes_without_spread() -> None:
    with pytest.raises(ValueError, match="two values"):
        statistics.p_greater([1.0])
    assert [statistics.p_greater([v, v, v]) for v in (0.1, 0.0, -0.1)] == [0.0, 1.0, 1.0]


def test_a_tiny_p_keeps_its_digits() -> None:
    values = [1.0, 1.0001, 0.9999, 1.00005, 0.99995, 1.00002, 0.99998, 1.0]
    expected = stats.ttest_1samp(values, 0, alternative="greater").pvalue
    assert 0 < expected < 1e-20
    assert statistics.p_greater(values) == pytest.approx(expected, rel=1e-6, abs=0)


@pytest.mark.parametrize("margin", [0.5, 1.0, 3.0])
def test_equivalence_is_two_one_sided_tests(margin: float) -> None:
    values = [0.2, -0.4, 0.5, 0.1, 0.0]
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    assert statistics.p_between(values, -margin, margin) == pytest.approx(max(above, below))
    assert statistics.p_between(values, -math.inf, margin) == pytest.approx(below)
    assert statistics.p_between(values, -margin, math.inf) == pytest.approx(above)


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.5, 0.9]) == [1.0, 1.0]
    assert statistics.holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])  # ties
    assert statistics.holm([]) == []


def test_all_or_some_of_several_tests() -> None:
    ps = [0.03, 0.001, 0.2]
    assert statistics.p_at_least(ps, 3) == 0.2  # intersection-union
    assert statistics.p_at_least(ps, 2) == pytest.approx(2 * 0.03)
    assert statistics.p_at_least(ps, 1) == pytest.approx(3 * 0.001)  # Bonferroni


def test_rank_correlation_is_that_of_scipy_with_ties_and_batches() -> None:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 4, size=(5, 9)).astype(float)  # many ties
    y = generator.normal(size=(5, 9))
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    assert statistics.spearman(x, y) == pytest.approx(expected)


def test_values_that_differ_by_rounding_tie() -> None:
    """Sums come out differently on other machines, and ranks must not."""
    x = np.array([0.3, 0.1, 0.2, 0.4])
    exact = statistics.spearman(x, [3.0, 1.0, 3.0, 4.0])
    assert statistics.spearman(x, [0.1 + 0.2 + 2.7, 1.0, 3.0 + 4e-16, 4.0]) == exact
    assert statistics.spearman(1e-9 * x, [3e-9 * (1 + 1e-16), 1e-9, 3e-9, 4e-9]) == exact
    assert statistics.spearman(x, [3.0, 1.0, 3.0 + 1e-6, 4.0]) != exact


def test_nothing_correlates_with_a_constant() -> None:
    assert math.isnan(statistics.spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))


def test_equal_variances_give_the_t_interval_of_the_effects() -> None:
    effects = [-0.9, -0.2, 0.4, -0.7, -1.3]
    found = statistics.random_effects(effects, [0.3] * 5)
    low, high = stats.t.interval(0.95, 4, np.mean(effects), stats.sem(effects))
    assert [found.mean, found.low, found.high] == pytest.approx([np.mean(effects), low, high])
    assert found.p == pytest.approx(stats.ttest_1samp(effects, 0).pvalue)
    assert found.n == 5


def test_random_effects_by_the_formulas() -> None:
    y, v = [0.1, 0.9, -0.6, 0.4], [0.02, 0.05, 0.01, 0.1]
    w = [1 / x for x in v]
    fixed = sum(a * b for a, b in zip(w, y, strict=True)) / sum(w)
    q = sum(a * (b - fixed) ** 2 for a, b in zip(w, y, strict=True))
    tau2 = (q - 3) / (sum(w) - sum(a * a for a in w) / sum(w))
    w = [1 / (x + tau2) for x in v]
    mean = sum(a * b for a, b in zip(w, y, strict=True)) / sum(w)
    squares = sum(a * (b - mean) ** 2 for a, b in zip(w, y, strict=True))
    error = math.sqrt(max(1.0, squares / 3) / sum(w))
    half = stats.t.ppf(0.975, 3) * error
    found = statistics.random_effects(y, v)
    assert tau2 > 0
    assert found.between == pytest.approx(math.sqrt(tau2))
    assert [found.mean, found.low, found.high] == pytest.approx([mean, mean - half, mean + half])
    assert found.p == pytest.approx(2 * stats.t.sf(abs(mean) / error, 3))


def test_one_stratum_has_no_interval_and_equal_ones_no_spread() -> None:
    assert statistics.random_effects([0.3], [1.0]) == statistics.RandomEffects(
        0.3, None, None, None, 0.0, 1, None
    )
    found = statistics.random_effects([-0.5, -0.5, -0.5], [1.0, 2.0, 3.0])
    assert found.between == 0
    assert found.mean == pytest.approx(-0.5)


def test_strata_that_agree_by_chance_do_not_narrow_the_interval() -> None:
    found = statistics.random_effects([-0.5, -0.5, -0.5], [0.3, 0.3, 0.3])
    half = stats.t.ppf(0.975, 2) * math.sqrt(0.3 / 3)
    assert [found.low, found.high] == pytest.approx([-0.5 - half, -0.5 + half])
    assert found.p == pytest.approx(2 * stats.t.sf(0.5 / math.sqrt(0.1), 2))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_an_error_and_no_verdict(value: float) -> None:
    for call in (
        lambda: statistics.mean_ci([0.1, value, 0.2]),
        lambda: statistics.p_greater([0.1, value, 0.2]),
        lambda: statistics.p_between([0.1, value, 0.2], -1, 1),
        lambda: statistics.holm([0.01, value, 0.03]),
    ):
        with pytest.raises(ValueError, match="finite"):
            call()
