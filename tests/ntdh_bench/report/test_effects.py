from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from ntdh_bench.report import effects
from ntdh_bench.report.effects import Effect, Pooled, Sides
from tests.typed import some

Array = NDArray[np.float64]
DOSES = [0.0, 0.25, 0.5, 0.75, 1.0]
MONTE_CARLO = 0.03  # four standard errors of a p from 4,999 draws


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def effect(value: float, variance: float) -> Effect:
    return Effect(value, variance, 0.5, 0.5, 10, 5, 9)


# -- doses ---------------------------------------------------------------------------------------


def test_a_dose_slope_is_the_mean_of_the_seeds_least_squares_slopes() -> None:
    gain = normal(5, 7)
    expected = [np.polyfit(DOSES, of_seed, 1)[0] for of_seed in gain.T]
    found = some(effects.dose_slope(gain, DOSES))
    assert found.value == pytest.approx(np.mean(expected))
    assert found.variance == pytest.approx(stats.sem(expected) ** 2)
    low, high = stats.t.interval(0.95, 6, np.mean(expected), stats.sem(expected))
    assert found.interval() == pytest.approx((low, high))
    assert (found.seeds, found.cells, found.freedom) == (7, 5, 6)


def test_p_of_seeds_is_that_of_all_flips_of_signs() -> None:
    values = normal(8, seed=3) + 0.5
    flips = np.array(list(itertools.product([-1, 1], repeat=8)))
    means = flips @ values
    found = some(effects.seed_mean(values))
    assert found.p_greater == pytest.approx((means >= values.sum() - 1e-12).mean(), abs=0.02)
    assert found.p_less == pytest.approx((means <= values.sum() + 1e-12).mean(), abs=0.02)
    mirrored = some(effects.seed_mean(-values))
    assert (mirrored.p_less, mirrored.p_greater) == (found.p_greater, found.p_less)


def test_what_all_doses_of_a_seed_share_cancels() -> None:
    gain, control = normal(5, 6), normal(6, seed=1)
    alone, shifted = effects.dose_slope(gain, DOSES), effects.dose_slope(gain - 9 * control, DOSES)
    assert some(shifted).value == pytest.approx(some(alone).value)
    assert some(shifted).variance == pytest.approx(some(alone).variance)


def test_seeds_that_lack_a_dose_do_not_count() -> None:
    gain = normal(5, 6)
    gain[2, 4] = np.nan
    whole = np.delete(gain, 4, axis=1)
    assert effects.dose_slope(gain, DOSES) == effects.dose_slope(whole, DOSES)


def test_directions_are_averaged_within_seeds() -> None:
    gain = normal(2, 5, 6)
    assert effects.dose_slope(gain, DOSES) == effects.dose_slope(gain.mean(axis=0), DOSES)


def test_seeds_may_have_doses_of_their_own() -> None:
    gain, nats = normal(5, 3), normal(5, 3, seed=1)
    nats[:, 2] = 0.3  # the divergence did not move
    found = effects.slopes(gain, nats)
    expected = [np.polyfit(x, y, 1)[0] for x, y in zip(nats.T[:2], gain.T[:2], strict=True)]
    assert found[:2] == pytest.approx(expected)
    assert np.isnan(found[2])


@pytest.mark.parametrize(
    "gain",
    [np.outer(DOSES, np.ones(6)), normal(5, 1), np.full((5, 3), np.nan)],
    ids=["alike", "one", "none"],
)
def test_no_slope_without_two_seeds_that_differ(gain: Array) -> None:
    assert effects.dose_slope(gain, DOSES) is None


def test_p_of_doses_is_that_of_permuting_them_within_seeds() -> None:
    gain, doses = normal(3, 3) + np.array([[0.0], [0.6], [1.0]]), [0.0, 0.5, 1.0]
    orders = [np.polyfit(doses, order, 1)[0] for g in gain.T for order in itertools.permutations(g)]
    of_seeds = np.reshape(orders, (3, 6))
    slopes = np.array(list(itertools.product(*of_seeds)))
    t = slopes.mean(axis=1) / slopes.std(axis=1)
    observed = effects.slopes(gain, doses)
    expected = np.mean(t >= observed.mean() / observed.std() - 1e-9)
    found = some(effects.dose_slope(gain, doses))
    assert 0.01 < expected < 0.4
    assert found.p_greater == pytest.approx(expected, abs=MONTE_CARLO)


# -- cells ---------------------------------------------------------------------------------------


def test_cell_slopes_are_those_of_least_squares_on_means_over_seeds() -> None:
    gain, x = normal(12, 4), normal(3, 12, 4, seed=1)
    y, means = gain.mean(axis=1), x.mean(axis=2)
    scaled = (means - means.mean(axis=1, keepdims=True)) / means.std(axis=1, keepdims=True)
    design = np.column_stack([np.ones(12), *scaled])
    expected, left, *_ = np.linalg.lstsq(design, y, rcond=None)
    covariance = float(left[0]) / 8 * np.linalg.inv(design.T @ design)
    found = some(effects.cell_slopes(gain, x))
    assert [each.value for each in found] == pytest.approx(expected[1:])
    assert [each.variance for each in found] == pytest.approx(np.diag(covariance)[1:])
    assert {(each.seeds, each.cells, each.freedom) for each in found} == {(4, 12, 8)}
    (difference,) = some(effects.cell_slopes(gain, x, [[1, -1, 0]]))
    assert difference.value == pytest.approx(expected[1] - expected[2])
    weights = np.array([0, 1, -1, 0])
    assert difference.variance == pytest.approx(weights @ covariance @ weights)


def test_p_of_cells_is_that_of_permuting_residuals_and_fitting_again() -> None:
    gain, x = normal(7, 3), normal(2, 7, 3, seed=1)
    gain += 0.8 * x[0] - x[1]
    y, means = gain.mean(axis=1), x.mean(axis=2)
    other = np.column_stack([np.ones(7), means[1]])
    residual = y - other @ np.linalg.lstsq(other, y, rcond=None)[0]
    observed, *permuted = [
        t_of_first(residual[list(order)], means) for order in itertools.permutations(range(7))
    ]
    expected = np.mean([t >= observed - 1e-9 for t in [observed, *permuted]])
    found = some(effects.cell_slopes(gain, x))[0]
    assert 0.01 < expected < 0.6
    assert found.p_greater == pytest.approx(expected, abs=MONTE_CARLO)


def t_of_first(y: Array, x: Array) -> float:
    design = np.column_stack([np.ones(len(y)), *x])
    beta, left, *_ = np.linalg.lstsq(design, y, rcond=None)
    return float(beta[1] / math.sqrt(left[0] * np.linalg.inv(design.T @ design)[1, 1]))


def test_cells_count_once_however_many_seeds_repeat_them() -> None:
    cells, x = normal(15), normal(1, 15, 30, seed=1)
    x[:] = x[..., :1]
    many = some(effects.cell_slopes(cells[:, None] + 0.01 * normal(15, 30), x))[0]
    few = some(effects.cell_slopes(cells[:, None] + 0.01 * normal(15, 3), x[..., :3]))[0]
    assert many.variance == pytest.approx(few.variance, rel=0.05)


def test_what_all_cells_of_a_seed_share_cancels() -> None:
    gain, x, control = normal(9, 4), normal(2, 9, 4, seed=1), normal(4, seed=2)
    shared = some(effects.cell_slopes(gain - control, x - 0.1 * control))
    alone = some(effects.cell_slopes(gain, x))
    assert [each.value for each in shared] == pytest.approx([each.value for each in alone])
    assert [each.p_less for each in shared] == [each.p_less for each in alone]


def test_cells_without_a_run_are_left_out_before_seeds_that_lack_one() -> None:
    gain, x = normal(12, 4), normal(2, 12, 4, seed=1)
    gain[3] = np.nan
    x[1, 5, 2] = np.nan
    kept = np.delete(np.delete(gain, 3, 0), 2, 1), np.delete(np.delete(x, 3, 1), 2, 2)
    assert effects.cell_slopes(gain, x) == effects.cell_slopes(*kept)


@pytest.mark.parametrize(
    ("gain", "x"),
    [
        (normal(12, 4), np.stack([normal(12, 4), np.ones((12, 4))])),
        (normal(12, 4), np.stack([normal(12, 4), 2 * normal(12, 4) + 1])),
        (normal(12, 1), normal(2, 12, 1)),
        (normal(5, 4), normal(2, 5, 4)),
        (np.full((12, 4), np.nan), normal(2, 12, 4)),
    ],
    ids=["constant", "collinear", "one seed", "few cells", "no runs"],
)
def test_no_cell_slopes_of_what_does_not_vary(gain: Array, x: Array) -> None:
    assert effects.cell_slopes(gain, x) is None


@pytest.mark.parametrize("level", [0.0, 1.7])
def test_a_gain_that_nothing_moves_is_an_effect_of_0(level: float) -> None:
    gain = np.full((12, 4), level)
    dosed = some(effects.dose_slope(gain[:5], DOSES))
    over_cells = some(effects.cell_slopes(gain, normal(2, 12, 4)))
    for found in (dosed, *over_cells):
        assert (found.value, found.variance, found.interval()) == (0, 0, (0, 0))
        assert (found.p_less, found.p_greater, found.seeds) == (1, 1, 4)


# -- runs ----------------------------------------------------------------------------------------


def test_run_slopes_are_the_seeds_own_less_what_seeds_and_cells_share() -> None:
    gain, x = normal(12, 4), normal(3, 12, 4, seed=1)
    dummies = np.column_stack([np.kron(np.eye(12), np.ones((4, 1))), np.tile(np.eye(4), (12, 1))])

    def left(values: Array) -> Array:
        """The residual of a regression on a constant for each cell and each seed."""
        flat = values.reshape(-1)
        return (flat - dummies @ np.linalg.lstsq(dummies, flat, rcond=None)[0]).reshape(12, 4)

    y, own = left(gain), np.stack([left(each) for each in x])
    assert effects.run_part(x) == pytest.approx(own)
    scaled = own / own.std(axis=(1, 2), keepdims=True)
    of_seed = [np.linalg.lstsq(scaled[..., s].T, y[:, s], rcond=None)[0] for s in range(4)]
    found = some(effects.run_slopes(gain, x))
    assert [each.value for each in found] == pytest.approx(np.mean(of_seed, axis=0))
    expected = stats.sem(np.array(of_seed)) ** 2
    assert [each.variance for each in found] == pytest.approx(expected)
    assert {(each.seeds, each.cells, each.freedom) for each in found} == {(4, 12, 3)}
    (difference,) = some(effects.run_slopes(gain, x, [[1, -1, 0]]))
    assert difference.value == pytest.approx(found[0].value - found[1].value)


def test_what_runs_of_a_cell_or_a_seed_share_tells_no_run_slope() -> None:
    gain, x = normal(9, 4), normal(2, 9, 4, seed=1)
    of_cell, of_seed = normal(9, 1, seed=2), normal(4, seed=3)
    moved = some(effects.run_slopes(gain + 5 * of_cell - of_seed, x + of_cell + of_seed))
    alone = some(effects.run_slopes(gain, x))
    assert [each.value for each in moved] == pytest.approx([each.value for each in alone])


@pytest.mark.parametrize(
    "x",
    [
        np.broadcast_to(normal(12, 1), (2, 12, 4)),
        np.stack([normal(12, 4), 2 * normal(12, 4) + 1]),
        normal(2, 12, 1),
        normal(9, 12, 4),
    ],
    ids=["of cells alone", "collinear", "one seed", "few cells"],
)
def test_no_run_slopes_of_what_does_not_vary(x: Array) -> None:
    assert effects.run_slopes(normal(12, x.shape[-1], seed=7), x) is None


# -- of one data set, and over data sets ---------------------------------------------------------


def test_an_average_is_as_uncertain_as_its_parts_if_they_depend_on_each_other() -> None:
    part = some(effects.seed_mean(normal(8) + 1))
    found = effects.average([part, part])
    assert found.value == pytest.approx(part.value)
    assert found.variance == pytest.approx(part.variance)
    assert (found.p_less, found.p_greater) == pytest.approx((part.p_less, part.p_greater))
    with pytest.raises(ValueError, match="at least one"):
        effects.average([])


def test_the_average_of_one_effect_is_that_effect() -> None:
    certain = Effect(1.0, 0.1, 1.0, 0.0002, 10, 5, 9)
    assert effects.average([certain]) is certain


def test_equal_variances_pool_to_the_mean_with_its_t_interval() -> None:
    values = [0.1, 1.9, -0.6, 1.2, 0.7]
    found = some(effects.pool([effect(value, 0.01) for value in values]))
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert found.value == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    greater = stats.ttest_1samp(values, 0, alternative="greater").pvalue
    assert (found.p_greater, found.p_less) == pytest.approx((greater, 1 - greater))
    above = stats.ttest_1samp(values, -2, alternative="greater").pvalue
    below = stats.ttest_1samp(values, 2, alternative="less").pvalue
    assert found.p_within(2) == pytest.approx(max(above, below))
    assert found.between**2 == pytest.approx(np.var(values, ddof=1) - 0.01)


@pytest.mark.parametrize("values", [[], [1.0], [0.3, 0.3], [0.0, 0.0], [1e-200, 2e-200]])
def test_one_data_set_is_not_pooled_nor_some_that_are_alike(values: list[float]) -> None:
    assert effects.pool([effect(value, 0.1) for value in values]) is None


# -- verdicts ------------------------------------------------------------------------------------


def test_sides_follow_the_sign_of_the_claim() -> None:
    pooled = Pooled(-1.0, 0.3, 0.0, 6)
    rises, falls = effects.sides(pooled, 0.5), effects.sides(pooled, 0.5, -1)
    assert (rises.holds, rises.fails) == (falls.fails, falls.holds)
    assert falls.holds < 0.02 < 0.98 < falls.fails
    assert falls.within > 0.9


def test_verdicts_are_symmetric() -> None:
    family = [Sides(0.001, 0.999, 1), Sides(0.999, 0.001, 1), Sides(0.4, 0.6, 1)]
    verdicts = [decision.verdict for decision in effects.decide(family)]
    assert verdicts == [effects.HOLDS, effects.FAILS, effects.INCONCLUSIVE]
    mirrored = [Sides(claim.fails, claim.holds, claim.within) for claim in family]
    verdicts = [decision.verdict for decision in effects.decide(mirrored)]
    assert verdicts == [effects.FAILS, effects.HOLDS, effects.INCONCLUSIVE]


def test_each_side_is_corrected_by_holm_at_half_the_level() -> None:
    family = [Sides(0.005, 0.995, 1), Sides(0.012, 0.988, 1), Sides(0.3, 0.7, 1)]
    found = effects.decide(family)
    assert [decision.p_holm for decision in found] == pytest.approx([0.03, 0.048, 0.6])
    assert [decision.p for decision in found] == pytest.approx([0.01, 0.024, 0.6])
    assert [decision.verdict for decision in found] == ["holds", "holds", "inconclusive"]
    assert effects.decide([family[1], *[Sides(0.4, 0.6, 1)] * 2])[0].verdict == "inconclusive"


def test_equivalence_is_corrected_as_well() -> None:
    unclear = Sides(0.5, 0.5, 1.0)
    assert effects.decide([Sides(0.5, 0.5, 0.012), unclear])[0].verdict == effects.NO_EFFECT
    assert effects.decide([Sides(0.5, 0.5, 0.013), unclear])[0].verdict == effects.INCONCLUSIVE


def test_a_claim_of_all_parts_fails_by_one_and_holds_by_every() -> None:
    parts = [Sides(0.001, 0.999, 0.2), Sides(0.97, 0.03, 0.1)]
    assert effects.every(parts) == Sides(0.97, 0.06, 0.2)
