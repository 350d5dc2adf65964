"""Dose-response curves: what gain, divergences and teacher are at each dose of an intervention."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ntdh_bench.records.columns import Row, by_key
from ntdh_bench.report.contrasts import Measure
from ntdh_bench.report.statistics import Estimate, mean_ci
from ntdh_bench.study.doses import EXPERIMENT, dosed
from ntdh_bench.study.results import DoseCurve, DosePoint
from ntdh_bench.study.settings import GAIN, NCJSD, TCJSD, Setting, settings, teacher


def dose_curves(rows: Iterable[Row]) -> tuple[DoseCurve, ...]:
    """Return a curve a data set and intervention, real data first; none without a whole run."""
    by_set = by_key(settings(rows, (EXPERIMENT,)), lambda s: (s.source, s.dataset))
    found = (curve for key in sorted(by_set) for curve in _curves(by_set[key]))
    return tuple(curve for curve in found if curve.points)


def _curves(of_set: Sequence[Setting]) -> list[DoseCurve]:
    run = [row for setting in of_set for row in setting.distilled if row["method"] == "KD"]
    names = dict.fromkeys(row["intervention"] for row in run if row["intervention"])
    return [_curve(of_set, name) for name in names]


def _curve(of_set: Sequence[Setting], name: str) -> DoseCurve:
    """Return the curve over the settings in which the intervention was run."""
    own = [s for s in of_set if any(row["intervention"] == name for row in s.distilled)]
    at: dict[float, list[Sequence[Row]]] = {}  # dose to the runs of each setting, of the same seeds
    for setting in own:
        for (_, dose), found in dosed(setting, [name]).runs.items():
            at.setdefault(dose, []).append(found)
    points = tuple(
        DosePoint(
            dose, *(_over_seeds(at[dose], measure) for measure in (GAIN, NCJSD, TCJSD, teacher))
        )
        for dose in sorted(at)
        if len(at[dose]) == len(own)
    )
    first = own[0]
    return DoseCurve(first.dataset, first.source, name, tuple(s.protocol for s in own), points)


def _over_seeds(of_settings: Sequence[Sequence[Row]], measure: Measure) -> Estimate | None:
    """Return the mean over the seeds that all settings have, of the means over settings."""
    values = [
        {row["seed"]: value for row in rows if (value := measure(row)) is not None}
        for rows in of_settings
    ]
    seeds = set.intersection(*map(set, values))
    return mean_ci(float(np.mean([of[seed] for of in values])) for seed in sorted(seeds))
