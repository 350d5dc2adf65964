from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from ntdh_bench.report.effects import run_slopes
from ntdh_bench.study import nulls, simulation, worlds
from ntdh_bench.study.nulls import BEFORE, COVERAGE, FALSE, LESS, NOW, Rate
from tests.typed import some

COMMITTED = Path(__file__).parents[3] / "results" / "study" / "nulls.csv"
NOISE = (0.15, 0.28, 0.45, 0.56, 2.2, 2.4, 2.5)
MOST_FALSE, LEAST_COVERED = 0.07, 0.92


def committed() -> list[Rate]:
    with COMMITTED.open(encoding="utf-8") as file:
        return [
            Rate(
                *(line[name] for name in ("measure", "design", "model", "rule", "unit")),
                float(line["value"]), float(line["error"]), int(line["cases"]),
            )
            for line in csv.DictReader(file)
        ]  # fmt: skip


def check(rates: list[Rate], errors: float) -> None:
    """Check the bounds of the study, up to so many standard errors of the simulation."""
    now = [rate for rate in rates if rate.rule == NOW]
    assert {rate.measure for rate in now} == {FALSE, COVERAGE}
    for rate in now:
        if rate.measure == FALSE:
            assert rate.value - errors * rate.error <= MOST_FALSE, rate
        else:
            least = 0.9 if rate.model == nulls.AS_NOISE else LEAST_COVERED
            assert rate.value + errors * rate.error >= least, rate


def test_committed_figures_keep_the_bounds() -> None:
    rates = committed()
    assert min(rate.cases for rate in rates if rate.rule == NOW) >= 1000
    check(rates, errors=0)


def test_committed_text_is_that_of_the_figures() -> None:
    text = COMMITTED.with_suffix(".md").read_text(encoding="utf-8")
    assert text == nulls.text(committed(), simulation.MADE)


@pytest.mark.slow
def test_rules_err_no_more_often_than_they_say_and_those_before_did() -> None:
    rates = nulls.nulls(NOISE, cases=500, seed=1)
    check(rates, errors=3.5)
    before = [r for r in rates if r.rule == BEFORE and r.measure == FALSE]
    too_often = {(r.design, r.model) for r in before if r.value - 3 * r.error > MOST_FALSE}
    expected = {(design, worlds.CELLS) for design in (worlds.RANDOM, worlds.PAPER)}
    assert expected <= too_often
    weighted = [r for r in rates if r.rule == BEFORE and r.model == nulls.AS_NOISE]
    assert all(r.value + 3 * r.error < LEAST_COVERED for r in weighted)
    (less,) = [r for r in rates if r.rule == LESS and r.design == worlds.RANDOM
               and r.unit == nulls.ONE and r.measure == FALSE]  # fmt: skip
    assert less.value - 2 * less.error > 0.05


def test_controls_of_their_own_would_lay_their_noise_to_the_divergence() -> None:
    rng = np.random.default_rng(0)
    shared, own = [], []
    for _ in range(40):
        gain, (ncjsd, _, accuracy) = worlds.masks(rng, 1.0, worlds.NOTHING)
        for control, found in ((rng.normal(size=10), shared), (rng.normal(size=gain.shape), own)):
            predictors = np.stack([ncjsd - 0.2 * control, accuracy])
            found.append(some(run_slopes(gain - control, predictors))[0].value)
    assert abs(np.mean(shared)) < 3 * np.std(shared) / np.sqrt(len(shared))
    assert np.mean(own) > 6 * np.std(own) / np.sqrt(len(own))


def test_a_false_verdict_of_the_rule_before_is_one_beside_0() -> None:
    rng = np.random.default_rng(0)
    gain, predictors = worlds.masks(rng, 1.0, worlds.NOTHING)
    assert nulls.seeds_resampled((gain - 20 * predictors[0], predictors), rng)
    assert nulls.seeds_resampled((gain + 20 * predictors[0], predictors), rng)
