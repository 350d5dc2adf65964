"""How often the study's rules err where nothing is to be found: null simulations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ntdh_bench.report.effects import (
    HOLDS,
    INCONCLUSIVE,
    LEVEL,
    MARGIN,
    NO_EFFECT,
    Effect,
    Pooled,
    decide,
    sides,
)
from ntdh_bench.report.statistics import Array, random_effects, spearman, t_quantile
from ntdh_bench.report.tables import markdown_rows
from ntdh_bench.study import worlds
from ntdh_bench.study.worlds import (
    ALIKE,
    CELLS,
    CLAIMS,
    DOSED,
    DRIVEN,
    NOTHING,
    PAPER,
    RANDOM,
    SEEDS,
    SETS,
    SHARED,
    SPREADS,
    Generator,
    Masks,
)

BEFORE, NOW, LESS = "before", "now", "now, TCJSD not held constant"
ONE, FAMILY = "data set", "family"
FALSE, COVERAGE = "false positives", "coverage"
_UNITS = (ONE, "over data sets")
AS_NOISE = "effects as large as the noise"
_SPREAD = "true slopes differ, SD"


@dataclass(frozen=True)
class Rate:
    """A share of simulated cases.

    Attributes:
        measure: ``false positives`` or ``coverage`` (of 95 % intervals).
        design: what is varied within a data set.
        model: what is true.
        rule: ``before``: Spearman, seeds resampled; ``now``: that of ``report/effects.py``, the
            slope in NCJSD given TCJSD and teacher accuracy, or given the latter alone.
        unit: of the verdict.
        value: in [0, 1].
        error: its standard error, as there are only so many cases.
        cases: simulated.
    """

    measure: str
    design: str
    model: str
    rule: str
    unit: str
    value: float
    error: float
    cases: int


def nulls(noise: Sequence[float], cases: int, seed: int = 0) -> list[Rate]:
    """Return false-positive rates and coverage under every null model.

    Args:
        noise: standard deviations of a run's accuracy, one a data set; simulated ones draw theirs.
        cases: data sets simulated a design and null model.
        seed: of the simulation.
    """
    rng = np.random.default_rng(seed)
    rates: list[Rate] = []
    for model in (NOTHING, SEEDS, ALIKE):
        drawn = [worlds.doses(rng, float(rng.choice(noise)), model) for _ in range(cases)]
        rates += _rates(rng, DOSED, model, NOW, list(map(worlds.dose_effect, drawn)))
    for design, world, effect in (
        (RANDOM, worlds.masks, worlds.mask_effect),
        (PAPER, worlds.paper_masks, worlds.paper_effect),
    ):
        for model in (NOTHING, CELLS, DRIVEN, SHARED):
            found = [world(rng, float(rng.choice(noise)), model) for _ in range(cases)]
            old = [seeds_resampled(each, rng) for each in found[: cases // 4]]
            rates += _opposites(design, model, BEFORE, ONE, old)
            rates += _rates(rng, design, model, NOW, [effect(*each) for each in found])
            if model == DRIVEN:  # what accuracy, measured on few rows, does not hold constant
                less = [effect(gain, x[[0, 2]]) for gain, x in found]
                rates += _rates(rng, design, model, LESS, less)
    return [*rates, *_families(rng, cases), *_as_noise(rng, noise, cases)]


def _rates(
    rng: Generator, design: str, model: str, rule: str, effects: Sequence[Effect]
) -> Iterator[Rate]:
    """Yield false positives and coverage of effects that are 0: of a data set, and over some."""
    yield from _both(design, model, rule, ONE, effects)
    for sets in SETS:
        for spread in SPREADS:
            where = f"{model}; {_SPREAD} {spread:g}"
            unit, studies = f"{sets} data sets", list(worlds.studies(rng, effects, sets, spread))
            yield from _both(design, where, rule, unit, list(map(worlds.pooled, studies)))
            if design == DOSED:
                wrong = [not _covers(_weighted(study), 0) for study in studies]
                yield from _opposites(design, where, BEFORE, unit, wrong)


def _as_noise(rng: Generator, noise: Sequence[float], cases: int) -> Iterator[Rate]:
    """Yield coverage where a data set's effect is its noise: near 100 % there is little of both."""
    drawn = [float(rng.choice(noise)) for _ in range(cases)]
    found = [worlds.dose_effect(worlds.doses(rng, sd, NOTHING)) for sd in drawn]
    moved = [replace(e, value=e.value + sd) for e, sd in zip(found, drawn, strict=True)]
    mean = float(np.mean(noise))
    for sets in SETS:
        unit, studies = f"{sets} data sets", list(worlds.studies(rng, moved, sets, 0.0))
        now = [_covers(worlds.pooled(study).interval(), mean) for study in studies]
        before = [_covers(_weighted(study), mean) for study in studies]
        yield _rate(COVERAGE, DOSED, AS_NOISE, NOW, unit, now)
        yield _rate(COVERAGE, DOSED, AS_NOISE, BEFORE, unit, before)


def _covers(interval: tuple[float, float], value: float) -> bool:
    return interval[0] <= value <= interval[1]


def _both(
    design: str, model: str, rule: str, unit: str, found: Sequence[Effect] | Sequence[Pooled]
) -> Iterator[Rate]:
    wrong = [2 * min(each.p_less, each.p_greater) <= 1 - LEVEL for each in found]
    yield _rate(FALSE, design, model, rule, unit, wrong)
    covered = [_covers(each.interval(), 0) for each in found]
    yield _rate(COVERAGE, design, model, rule, unit, covered)


def _opposites(
    design: str, model: str, rule: str, unit: str, wrong: Iterable[bool]
) -> Iterator[Rate]:
    """Yield both rates of a rule that gives a verdict where its interval misses 0."""
    cases = list(wrong)
    yield _rate(FALSE, design, model, rule, unit, cases)
    if model != DRIVEN:  # where NCJSD alone does correlate with the gain
        yield _rate(COVERAGE, design, model, rule, unit, [not each for each in cases])


def _rate(
    measure: str, design: str, model: str, rule: str, unit: str, cases: Iterable[bool]
) -> Rate:
    counted = np.array(list(cases), dtype=float)
    value = float(counted.mean())
    error = math.sqrt(value * (1 - value) / counted.size)
    return Rate(measure, design, model, rule, unit, round(value, 4), round(error, 4), counted.size)


# -- the rules before ----------------------------------------------------------------------------


def seeds_resampled(found: Masks, rng: Generator, resamples: int = 1000) -> bool:
    """Return whether the rule before this one gave a verdict: false, as there is no effect.

    That is Spearman's correlation of NCJSD and gain over cells, whose interval came from drawing
    whole seeds again, as if the cells were all there are.
    """
    gain, (ncjsd, *_) = found
    seeds = gain.shape[1]
    drawn = rng.multinomial(seeds, [1 / seeds] * seeds, size=resamples) / seeds
    low, high = np.percentile(spearman(drawn @ ncjsd.T, drawn @ gain.T), [2.5, 97.5])
    return bool(low > 0 or high < 0)


def _weighted(effects: Sequence[Effect]) -> tuple[float, float]:
    """Return the interval of the mean by the rule before: weights of inverse variance."""
    found = random_effects([e.value for e in effects], [e.variance for e in effects])
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


# -- families of claims --------------------------------------------------------------------------


def _families(rng: Generator, cases: int) -> Iterator[Rate]:
    """Yield how often a family has any false verdict."""
    before = [_ledger(rng) for _ in range(cases)]
    yield _rate(FALSE, "69 claims, 5 seeds", NOTHING, BEFORE, FAMILY, before)
    for value, model in ((0.0, NOTHING), (MARGIN, "every effect is at the margin")):
        true = {HOLDS, INCONCLUSIVE} if value else {NO_EFFECT, INCONCLUSIVE}
        found = [_verdicts(rng, value) for _ in range(cases)]
        yield _rate(
            FALSE, "7 claims, 8 data sets", model, NOW, FAMILY, [not f <= true for f in found]
        )


def _ledger(rng: Generator) -> bool:
    """Return whether the rule before this one let any of 69 claims hold, or fail, by chance.

    That is t over seeds: Holm's correction for *holds*, none for *fails*.
    """
    values = _alike(rng, 69, 5)
    t = values.mean(axis=1) / values.std(axis=1, ddof=1) * math.sqrt(5)
    return bool(t.min() < t_quantile(0.025, 4) or t.max() > t_quantile(1 - 0.05 / len(t), 4))


def _verdicts(rng: Generator, value: float) -> set[str]:
    """Return the verdicts on seven claims over eight data sets, all of this mean, in points."""
    values = value + 0.4 * _alike(rng, CLAIMS, 8)
    effects = [[Effect(v, 0.01, 1, 1, 10, 5, 9) for v in claim] for claim in values]
    claims = [sides(worlds.pooled(claim), MARGIN) for claim in effects]
    return {decision.verdict for decision in decide(claims)}


def _alike(rng: Generator, claims: int, units: int) -> Array:
    """Return standard normal values of claims that correlate by a half, as they share controls."""
    return math.sqrt(0.5) * (rng.normal(size=(claims, units)) + rng.normal(size=units))


# -- text ----------------------------------------------------------------------------------------


def text(rates: Sequence[Rate], made: str) -> str:
    """Return false positives and coverage as Markdown: the worst over studies of each kind."""
    tables = []
    for measure, worst in ((FALSE, max), (COVERAGE, min)):
        by_model: dict[tuple[str, str, str], dict[str, list[float]]] = {}
        for rate in rates:
            if rate.measure == measure and rate.unit != FAMILY:
                key = (rate.design, rate.model.partition(f"; {_SPREAD}")[0], rate.rule)
                unit = ONE if rate.unit == ONE else "over data sets"
                by_model.setdefault(key, {}).setdefault(unit, []).append(rate.value)
        lines = [
            [*key, *(f"{100 * worst(found[u]):.1f}" if u in found else "" for u in _UNITS)]
            for key, found in by_model.items()
        ]
        head = ["within a data set", "what is true", "rule", *(f"{unit}, %" for unit in _UNITS)]
        tables.append(markdown_rows(head, lines, numbers=2))
    families = [
        [rate.design, rate.model, rate.rule, f"{100 * rate.value:.1f}"]
        for rate in rates
        if rate.unit == FAMILY
    ]
    head = ["family", "what is true", "rule", "any verdict false, %"]
    return _TEXT.format(
        *tables,
        markdown_rows(head, families, numbers=1),
        made=made,
        cases=max(rate.cases for rate in rates if rate.unit == ONE),
        error=100 * max(rate.error for rate in rates),
        sets=", ".join(map(str, SETS)),
        spreads=", ".join(f"{spread:g}" for spread in SPREADS),
    )


_TEXT = """# Null simulations

How often the rules of the study err where nothing is to be found. {made}
A run's noise is that of the first records (`power.md`); cells differ by twice as much.

- *doses*: 5 doses, 10 seeds; *random masks*: 40, drawn anew in each of 10 seeds; *masks of the
  paper*: 10, 5 seeds.
- *before*: the correlation of NCJSD and gain over cells, seeds resampled (Spearman, a percentile
  interval): its verdict on a stratum; over data sets weights of inverse variance (DerSimonian and
  Laird, Hartung and Knapp). *now*: slopes in doses, or over the paper's masks, permuted; of
  random masks one a seed, less what the seeds of a mask share; over data sets each counting once
  (`report/effects.py`). NCJSD is given TCJSD and the teacher's accuracy; given
  accuracy alone, which is measured on few rows, it takes the blame for what accuracy does.
- *data set*: {cases} a line; *over data sets*: the worst of studies of {sets} data sets whose
  true slopes differ around 0 by a standard deviation of {spreads} points. Standard errors are at
  most {error:.1f} % (`nulls.csv` has them).
- *effects as large as the noise*: a data set near 100 % has little of both. There is an effect,
  smaller in some data sets than in others; five data sets tell its mean a little too narrowly.

## False positives, at 5 %

{}

## Coverage of 95 % intervals

{}

## Families of claims

Claims correlate by a half. *before*: t over seeds, Holm for *holds*, none for *fails*. *now*:
`effects.decide`.

{}
"""
