"""What the claims of the paper compare: cells, measures and changes over an axis of a figure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from typing import Any, TypeAlias

from ntdh_bench.experiments import find_experiment, load_experiment
from ntdh_bench.paper.printed import REMOVES
from ntdh_bench.records.columns import Row
from ntdh_bench.report.contrasts import (
    SCORE,
    BySeed,
    Contrast,
    Measure,
    average,
    cell,
    column,
    minus,
    points,
    times,
    trend,
)
from ntdh_bench.report.pairing import Controls, split
from ntdh_bench.report.papers import Part, Values, one, part
from ntdh_bench.report.statistics import spearman

# The axes of the paper's figures; a trend needs a run at every value.
GAPS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TRUE, RANDOM, FALSE = REMOVES["T"], REMOVES["R"], REMOVES["F"]


# -- cells ---------------------------------------------------------------------------------------


def kd(measure: Measure = SCORE, **where: Any) -> Contrast:
    """Return a cell of KD runs."""
    return cell(measure, arm="kd", **where)


def without_kd(measure: Measure = SCORE, **where: Any) -> Contrast:
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


def ratio_slack(factor: float, target: str) -> Measure:
    """Return the measure NCKL - factor |TCKL|.

    ``target`` is ``tckl_size``, the mean size of Eq. 19, which may be negative and would cancel
    between samples, or ``tckl_binary``, of two-way distributions.
    """

    def measure(row: Row) -> float | None:
        nckl, tckl = row["last_test_nckl"], row[f"last_test_{target}"]
        return None if nckl is None or tckl is None else float(nckl - factor * tckl)

    return measure


NCJSD, TCJSD = column("last_test_ncjsd"), column("last_test_tcjsd")
TEACHER_SCORE = points("last_test_teacher_score")


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


def pooled_order(ratios: Sequence[float], methods: Sequence[str]) -> tuple[Part, ...]:
    """Return the two parts of T > R > F, averaged over methods and ratios."""
    found = [order(ratios, method=method) for method in methods]
    return tuple(
        part(parts[0].name, average(each.contrast for each in parts))
        for parts in zip(*found, strict=True)
    )


def mask_effect(
    removes: str | None, ratios: Sequence[float], over: str | None = None, **where: Any
) -> Contrast:
    """Return NCJSD before distillation with a mask minus that with another, averaged over ratios.

    A mask is what it removes; None: no mask.
    """

    def at(mask: str | None, ratio: float) -> Contrast:
        share = ratio if mask else None
        return without_kd(before("ncjsd"), removes=mask, ratio=share, **where)

    return average(minus(at(removes, ratio), at(over, ratio)) for ratio in ratios)


def farther(
    near: str | None, far: str | None, ratios: Sequence[float], **where: Any
) -> tuple[Part, ...]:
    """Return what must have moved: NCJSD with the mask ``far`` exceeds that with ``near``."""
    return one(mask_effect(far, ratios, near, **where))


def order_moved(ratios: Sequence[float], **where: Any) -> tuple[Part, ...]:
    """Return what must have moved for T > R > F to be a matter of NCJSD: T below R below F."""
    return farther(TRUE, RANDOM, ratios, **where) + farther(RANDOM, FALSE, ratios, **where)


def log(measure: Measure) -> Measure:
    """Return the logarithm of a measure > 0: its changes are relative ones."""

    def logarithm(row: Row) -> float | None:
        value = measure(row)
        return None if value is None or value <= 0 else math.log(value)

    return logarithm


# -- several teachers ------------------------------------------------------------------------------

# Seed to the hash of data and teacher to what was measured.
_Teachers: TypeAlias = dict[int, dict[str, tuple[float, float]]]


def missing_teachers(rows: Sequence[Row]) -> str:
    """Say how many teachers of the shipped grid no seed has yet; nothing if all are there."""
    first = rows[0]
    wanted = _shipped_teachers(first["experiment"]).get(first["protocol"], 0)
    found = len({row["pair_hash"] for row in rows if row["arm"] == "kd"})
    if found >= wanted:
        return ""
    return f"partial: {found} of {wanted} teachers; a part of the grid decides nothing"


@cache
def _shipped_teachers(experiment: str) -> dict[str, int]:
    """Return how many KD runs a seed of each protocol has: one a teacher."""
    runs = load_experiment(find_experiment(experiment)).runs
    distilled = [run for run in runs if run.config["model"]["init_args"].get("distiller")]
    most: Counter[str] = Counter()
    for (protocol, _), number in Counter((run.protocol, run.seed) for run in distilled).items():
        most[protocol] = max(most[protocol], number)
    return dict(most)


def _whole(teachers: _Teachers, least: int) -> dict[int, list[tuple[float, float]]]:
    """Return the seeds that have all the teachers that any seed has, at least so many."""
    settings = {setting for found in teachers.values() for setting in found}
    whole = max(least, len(settings))
    return {s: list(found.values()) for s, found in teachers.items() if len(found) == whole}


def teacher_against_student(rows: Sequence[Row]) -> BySeed:
    """Return each seed's rank correlation of teacher and student accuracy, over its teachers.

    Only seeds that have the runs with all teachers count, at least four of them.
    """
    teachers: _Teachers = defaultdict(dict)
    for row in rows:
        values = row["last_test_teacher_score"], row["last_test_score"]
        if row["arm"] == "kd" and None not in values:
            teachers[row["seed"]][row["pair_hash"]] = values
    rho = {s: float(spearman(*zip(*p, strict=True))) for s, p in _whole(teachers, 4).items()}
    return {seed: value for seed, value in rho.items() if not math.isnan(value)}


def closer_against_farther(metric: str) -> Values:
    """Return how much more accurate, in points, the student of the less divergent teacher is.

    The mean over all pairs of a seed's teachers; only seeds that have all teachers count.

    Args:
        metric: the divergence before distillation, ``ncjsd`` or ``tcjsd``.
    """

    def values(rows: Sequence[Row]) -> BySeed:
        controls = Controls(rows)
        teachers: _Teachers = defaultdict(dict)
        for row in rows:
            divergence = controls.before(row, metric) if row["arm"] == "kd" else None
            if divergence is not None and row["last_test_score"] is not None:
                pair = divergence, 100 * row["last_test_score"]
                teachers[row["seed"]][row["pair_hash"]] = pair
        return {seed: _mean_lead(found) for seed, found in _whole(teachers, 2).items()}

    return values


def difference(a: Values, b: Values) -> Values:
    """Return a - b of the seeds that have both."""

    def values(rows: Sequence[Row]) -> BySeed:
        left, right = a(rows), b(rows)
        return {seed: left[seed] - right[seed] for seed in left if seed in right}

    return values


def _mean_lead(teachers: Sequence[tuple[float, float]]) -> float:
    """Return the mean lead of the nearer teacher's student; equally near ones have none."""
    leads = [
        near[1] - far[1] if near[0] < far[0] else 0.0
        for near, far in combinations(sorted(teachers), 2)
    ]
    return sum(leads) / len(leads)
