"""What the claims of the paper compare: cells, measures and changes over an axis of a figure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple, TypeAlias

from ntdh_bench.records import Row
from ntdh_bench.report.contrasts import (
    ACCURACY,
    BySeed,
    Contrast,
    Measure,
    Reduction,
    average,
    cell,
    column,
    evaluate,
    minus,
    points,
    times,
    trend,
)
from ntdh_bench.report.pairing import Controls, split
from ntdh_bench.report.paper import REMOVES
from ntdh_bench.report.statistics import spearman

# The axes of the paper's figures; a trend needs a run at every value.
GAPS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TRUE, RANDOM, FALSE = REMOVES["T"], REMOVES["R"], REMOVES["F"]

Values: TypeAlias = Callable[[Sequence[Row]], BySeed]


class Part(NamedTuple):
    """One comparison of a claim, and how it becomes one number a seed."""

    name: str
    values: Values


def part(name: str, contrast: Contrast, over: Reduction | None = None) -> Part:
    """Return the part that evaluates a contrast."""
    return Part(name, lambda rows: evaluate(contrast, rows, over))


def one(contrast: Contrast, over: Reduction | None = None) -> tuple[Part, ...]:
    """Return the only part of a simple claim."""
    return (part("", contrast, over),)


# -- cells ---------------------------------------------------------------------------------------


def kd(measure: Measure = ACCURACY, **where: Any) -> Contrast:
    """Return a cell of KD runs."""
    return cell(measure, arm="kd", **where)


def without_kd(measure: Measure = ACCURACY, **where: Any) -> Contrast:
    """Return a cell of the controls."""
    return cell(measure, arm="without_kd", **where)


def masked(removes: str, ratio: float | None, **where: Any) -> Contrast:
    """Return the accuracy of KD with a mask."""
    return kd(removes=removes, ratio=ratio, **where)


def unmasked(**where: Any) -> Contrast:
    """Return the accuracy of KD without a mask."""
    return kd(removes=None, ratio=None, **where)


def before(metric: str) -> Measure:
    """Return a measure of controls: a divergence before distillation, on validation data."""
    return lambda row: row[f"last_{split(row)}_{metric}"]


def log_parameters(row: Row) -> float | None:
    """Return 100 ln(parameters) of a network trained alone: differences are in per cent."""
    count = row["student_parameters"] or row["teacher_parameters"]
    return 100 * math.log(count) if count else None


def log_capacity_ratio(row: Row) -> float | None:
    """Return 100 ln(teacher's / student's parameters) of a run with both."""
    teacher, student = row["teacher_parameters"], row["student_parameters"]
    return 100 * math.log(teacher / student) if teacher and student else None


def bound_slack(target: str) -> Measure:
    """Return the measure TCKL + NCKL - KL, with TCKL of Eq. 19 or of two-way distributions."""

    def measure(row: Row) -> float | None:
        values = [row[f"last_test_{name}"] for name in (target, "nckl", "kl")]
        return None if None in values else float(values[0] + values[1] - values[2])

    return measure


def ratio_slack(factor: float) -> Measure:
    """Return the measure NCKL - factor |TCKL|: TCKL of Eq. 19 may be negative."""

    def measure(row: Row) -> float | None:
        nckl, tckl = row["last_test_nckl"], row["last_test_tckl"]
        return None if nckl is None or tckl is None else float(nckl - factor * abs(tckl))

    return measure


NCJSD, TCJSD = column("last_test_ncjsd"), column("last_test_tcjsd")
TEACHER_ACCURACY = points("last_test_teacher_accuracy")


# -- changes over an axis --------------------------------------------------------------------------


def over_gaps(measure: Measure) -> Contrast:
    """Return the change of a measure of KD runs from gap 0 to gap 1."""
    return trend(lambda gap: kd(measure, method="KD", gap=gap), GAPS)


def over_alpha(**where: Any) -> Contrast:
    """Return the change of accuracy from target weight 0 to 16, the other weight 1."""
    return trend(lambda weight: kd(method="WeightedKL", alpha=weight, beta=1.0, **where), WEIGHTS)


def over_beta(**where: Any) -> Contrast:
    """Return the change of accuracy from non-target weight 0 to 16, the other weight 1."""
    return trend(lambda weight: kd(method="WeightedKL", alpha=1.0, beta=weight, **where), WEIGHTS)


def rise_and_fall(**where: Any) -> tuple[Part, ...]:
    """Return the two parts of "improves at first, then declines", for the True mask.

    The stretches are fixed beforehand, so that no peak is picked from the data it is tested on.
    """

    def at(ratio: float) -> Contrast:
        return masked(TRUE, ratio, **where) if ratio else unmasked(**where)

    return (
        part("rise from no mask to 0.3", trend(at, (0.0, *RATIOS[:3]))),
        part("fall from 0.7 to 0.9, sign turned", times(-1.0, trend(at, RATIOS[6:]))),
    )


def order(ratios: Sequence[float], **where: Any) -> tuple[Part, ...]:
    """Return the two parts of T > R > F, averaged over ratios."""

    def lead(first: str, second: str) -> Contrast:
        return average(minus(masked(first, r, **where), masked(second, r, **where)) for r in ratios)

    return (part("T - R", lead(TRUE, RANDOM)), part("R - F", lead(RANDOM, FALSE)))


def mask_effect(removes: str, ratios: Sequence[float], **where: Any) -> Contrast:
    """Return what a mask changes about NCJSD before distillation, averaged over ratios."""
    ncjsd = before("ncjsd")
    base = without_kd(ncjsd, removes=None, ratio=None, **where)
    return average(
        minus(without_kd(ncjsd, removes=removes, ratio=r, **where), base) for r in ratios
    )


# -- several teachers ------------------------------------------------------------------------------


def teacher_against_student(rows: Sequence[Row]) -> BySeed:
    """Return each seed's rank correlation of teacher and student accuracy, over its teachers.

    Only seeds that have the runs with all teachers count, at least four of them.
    """
    pairs: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        values = row["last_test_teacher_accuracy"], row["last_test_accuracy"]
        if row["arm"] == "kd" and None not in values:
            pairs[row["seed"]].append(values)
    whole = max([4, *map(len, pairs.values())])
    rho = {s: float(spearman(*zip(*p, strict=True))) for s, p in pairs.items() if len(p) == whole}
    return {seed: value for seed, value in rho.items() if not math.isnan(value)}


def closer_against_farther(rows: Sequence[Row]) -> BySeed:
    """Return how much more accurate, in points, the student of the teacher with less NCJSD is.

    The mean over all pairs of a seed's teachers; only seeds that have all teachers count.
    """
    controls = Controls(rows)
    teachers: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row["arm"] == "kd" and row["last_test_accuracy"] is not None:
            ncjsd = controls.before(row)
            if ncjsd is not None:
                teachers[row["seed"]].append((ncjsd, 100 * row["last_test_accuracy"]))
    whole = max([2, *map(len, teachers.values())])
    return {s: _mean_lead(found) for s, found in teachers.items() if len(found) == whole}


def _mean_lead(teachers: Sequence[tuple[float, float]]) -> float:
    leads = [near[1] - far[1] for near, far in combinations(sorted(teachers), 2)]
    return sum(leads) / len(leads)
