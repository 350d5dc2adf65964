"""What the study can find: power, simulated before it is run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ntdh_bench.report.effects import LEVEL, Effect
from ntdh_bench.report.statistics import t_quantile
from ntdh_bench.report.tables import markdown_rows
from ntdh_bench.study import worlds
from ntdh_bench.study.worlds import CLAIMS, DOSED, DOSES, NOTHING, RANDOM, SETS, SPREADS, Generator


@dataclass(frozen=True)
class Detectable:
    """The smallest true slope that is found in four of five studies.

    Attributes:
        design: what is varied within a data set.
        sets: data sets.
        spread: standard deviation of the true slopes between data sets, in points.
        alone: in points, tested alone at 5 %, two-sided.
        holm: as the first of seven claims.
    """

    design: str
    sets: int
    spread: float
    alone: float
    holm: float


def power(noise: Mapping[str, float], cases: int, seed: int = 0) -> list[Detectable]:
    """Return the slopes that the study finds with 80 % power, by design and number of data sets.

    Trainings are all that makes noise here, so that these are the least.

    Args:
        noise: standard deviation of a run's accuracy over trainings, in points, by data set.
        cases: data sets simulated a design.
        seed: of the simulation.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.choice(list(noise.values()), size=cases)
    designs = {
        DOSED: [worlds.dose_effect(worlds.doses(rng, float(sd), NOTHING)) for sd in drawn],
        RANDOM: [worlds.mask_effect(*worlds.masks(rng, float(sd), NOTHING)) for sd in drawn],
    }
    return [
        Detectable(design, sets, spread, *detectable(rng, effects, sets, spread))
        for design, effects in designs.items()
        for spread in SPREADS
        for sets in SETS
    ]


def detectable(
    rng: Generator, effects: Sequence[Effect], sets: int, spread: float
) -> tuple[float, float]:
    """Return the smallest mean slope that is found with 80 % power: alone, and as one of seven.

    A study finds slopes above those at which its own interval leaves 0: the answer is what four of
    five studies need.

    Args:
        rng: of the simulation.
        effects: of data sets in which the true slope is 0.
        sets: data sets of a study.
        spread: standard deviation of the true slopes between data sets.
    """
    means = [worlds.pooled(group) for group in worlds.studies(rng, effects, sets, spread)]
    levels = (LEVEL, 1 - (1 - LEVEL) / CLAIMS)
    alone, holm = (np.quantile([-m.interval(level)[0] for m in means], 0.8) for level in levels)
    return round(float(alone), 4), round(float(holm), 4)


def single(noise: float, seeds: int = 10) -> float:
    """Return the slope in the dose that one data set shows in four of five cases, in points."""
    spread = math.sqrt(sum((dose - np.mean(DOSES)) ** 2 for dose in DOSES) * seeds)
    return (t_quantile(0.975, seeds - 1) + t_quantile(0.8, seeds - 1)) * noise / spread


def text(found: Sequence[Detectable], noise: Mapping[str, float], made: str) -> str:
    """Return what the study can find as Markdown."""
    lines = [
        [each.design, str(each.sets), f"{each.spread:g}", f"{each.alone:.2f}", f"{each.holm:.2f}"]
        for each in found
    ]
    head = ["within a data set", "data sets", "SD of true slopes", "alone", "first of seven (Holm)"]
    pooled = markdown_rows(head, lines, numbers=4)
    own = [[name, f"{sd:.2f}", f"{single(sd):.2f}"] for name, sd in noise.items()]
    each = markdown_rows(["data set", "SD of a run", "slope it shows by itself"], own, numbers=2)
    return _TEXT.format(pooled, each, made=made)


_TEXT = """# Power

The smallest true slopes that four of five studies find at 5 %, two-sided, in accuracy points: a
unit of dose, or a standard deviation of NCJSD over masks, given TCJSD and the teacher's accuracy.
10 seeds; 5 doses or 40 masks. {made}

{}

Noise: the standard deviation over seeds of KD's gain on each real data set of
`records/methods.csv`, over the root of 2, and the slope over five doses that ten seeds of that data
set show by themselves in four of five cases. Trainings are all that makes noise here: seeds that
respond differently make it more.

{}
"""
