"""Simulated data sets in which nothing is to be found, or nothing yet: worlds of the null models.

Gains are in multiples of a run's noise, the standard deviation of its accuracy over trainings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from ntdh_bench.records.columns import Row, by_key
from ntdh_bench.report.effects import Effect, Pooled, cell_slopes, dose_slope, pool, run_slopes
from ntdh_bench.report.pairing import Controls, scored
from ntdh_bench.report.statistics import Array

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0)
SETS = (5, 8, 11)
CLAIMS = 7
SPREADS = (0.0, 0.5, 1.5)  # standard deviation of the true slopes between data sets, in points
DOSED, RANDOM, PAPER = "doses", "random masks", "masks of the paper"
_ROWS = 200  # validation rows that accuracies and divergences are measured on
_BOTH = 500  # as noisy as the mean over these and 400 test rows
_SHUFFLES = 4  # how often simulated data sets are dealt out to studies anew

NOTHING, CELLS, DRIVEN, SHARED = (
    "nothing does anything",
    "cells differ, unrelated to NCJSD",
    "teacher accuracy drives NCJSD and gain",
    "the control's noise is shared",
)
SEEDS, ALIKE = "seeds respond differently", "neighbouring doses are alike, the control is shared"

Generator: TypeAlias = np.random.Generator
Masks: TypeAlias = tuple[Array, Array]  # gain (cells, seeds); NCJSD, TCJSD, accuracy (3, ...)


# -- one data set --------------------------------------------------------------------------------


def doses(rng: Generator, noise: float, model: str, seeds: int = 10) -> Array:
    """Return gains ``(doses, seeds)`` of a data set in which the mean slope is 0.

    Args:
        rng: of the simulation.
        noise: standard deviation of a run's accuracy over trainings, in points.
        model: one of ``NOTHING``, ``SEEDS``, ``ALIKE``.
        seeds: of the data set.
    """
    x = np.array(DOSES)[:, None]
    runs = rng.normal(size=(len(x), seeds))
    if model == ALIKE:
        likeness = 0.7 ** (4 * np.abs(x - x.T))
        runs = np.linalg.cholesky(likeness) @ runs - rng.normal(size=seeds)
    if model == SEEDS:
        hump = 4 * x * (1 - x) * rng.normal()
        runs += 2 * x * rng.normal(size=seeds) + 2 * hump
    return noise * runs


def masks(
    rng: Generator, noise: float, model: str, cells: int = 40, seeds: int = 10, rows: int = _BOTH
) -> Masks:
    """Return gains, and NCJSD, TCJSD and teacher accuracy, of a data set under random masks.

    The teacher gets worse with the ratio, and by which features it loses; both divergences rise as
    it does, and NCJSD has a part of its own.

    Args:
        rng: of the simulation.
        noise: standard deviation of a run's accuracy over trainings, in points.
        model: one of ``NOTHING``, ``CELLS``, ``DRIVEN``, ``SHARED``: in none has NCJSD an effect.
        cells: masks.
        seeds: of each.
        rows: that accuracies and divergences are measured on.
    """
    ratio = rng.uniform(0.05, 0.7, (cells, 1))
    quality = 3 * (0.4 - ratio) + 0.3 * rng.normal(size=(cells, seeds))
    accuracy = rng.binomial(rows, 1 / (1 + np.exp(-1 - quality))) / rows
    own = 0.15 * rng.normal(size=(cells, 1)) + 0.3 * rng.normal(size=(cells, seeds))
    control = rng.normal(size=seeds) if model == SHARED else np.zeros(seeds)
    measured = rng.normal(size=(2, cells, seeds)) / math.sqrt(rows) - 0.2 * control
    ncjsd, tcjsd = -0.5 * quality + own + measured[0], -0.7 * quality + measured[1]
    runs = rng.normal(size=(cells, seeds)) - control
    if model == CELLS:
        runs += 2 * rng.normal(size=(cells, 1))
    if model == DRIVEN:
        runs += 2 * quality
    return noise * runs, np.stack([ncjsd, tcjsd, accuracy])


def paper_masks(rng: Generator, noise: float, model: str) -> Masks:
    """Return the same for ten masks and five seeds, as the paper's by three ratios and none."""
    return masks(rng, noise, model, cells=10, seeds=5, rows=_ROWS)


def dose_effect(gain: Array) -> Effect:
    """Return the slope in the dose."""
    found = dose_slope(gain, DOSES)
    assert found is not None, "simulated gains vary"
    return found


def mask_effect(gain: Array, predictors: Array) -> Effect:
    """Return the slope over random masks in NCJSD, the first predictor, given the others."""
    return _first(run_slopes(gain, predictors, np.eye(len(predictors))[:1]))


def paper_effect(gain: Array, predictors: Array) -> Effect:
    """Return the same over masks that are the same in all seeds, such as the paper's."""
    return _first(cell_slopes(gain, predictors, np.eye(len(predictors))[:1]))


def _first(slopes: Sequence[Effect] | None) -> Effect:
    assert slopes is not None, "simulated masks vary"
    return slopes[0]


# -- noise, and studies of several data sets -----------------------------------------------------


def noise_of(rows: Sequence[Row]) -> dict[str, float]:
    """Return the noise of a run by real data set: the standard deviation over trainings, points.

    Two trainings with one seed, KD and control, differ by the noise of both: it is the standard
    deviation of the gain over seeds, divided by the root of 2. Of several students with KD, such as
    those of two protocols, the mean variance counts.
    """
    scores = [scored(row) for row in rows]
    controls = Controls(scores)
    gains: dict[str, list[float]] = {}
    tested = [row for row in scores if row["arm"] == "kd" and row["method"] == "KD"]
    alike = by_key(tested, lambda row: (row["dataset"], row["protocol"], row["objective_hash"]))
    for (dataset, *_), runs in alike.items():
        found = [100 * gain for row in runs if (gain := controls.gain(row)) is not None]
        if len(found) > 1 and runs[0]["source"] == "real":
            gains.setdefault(str(dataset), []).append(float(np.var(found, ddof=1)) / 2)
    return {name: math.sqrt(np.mean(found)) for name, found in sorted(gains.items())}


def studies(
    rng: Generator, effects: Sequence[Effect], sets: int, spread: float
) -> Iterator[list[Effect]]:
    """Deal data sets out to studies, each with a true slope of its own around 0."""
    for _ in range(_SHUFFLES):
        order = rng.permutation(len(effects))
        for group in order[: len(order) // sets * sets].reshape(-1, sets):
            shifts = spread * rng.normal(size=sets)
            yield [
                replace(effects[i], value=effects[i].value + shift)
                for i, shift in zip(group, shifts, strict=True)
            ]


def pooled(effects: Sequence[Effect]) -> Pooled:
    """Return the mean over the data sets of a study."""
    found = pool(effects)
    assert found is not None
    return found
