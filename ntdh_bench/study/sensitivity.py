"""How far the sign of the first claim's effect depends on how the experiment is specified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from ntdh_bench.records.columns import Row, by_key
from ntdh_bench.report.contrasts import Measure, points
from ntdh_bench.study.doses import SHUFFLE
from ntdh_bench.study.results import Sensitivity, Specification
from ntdh_bench.study.settings import SCORE, block

EXPERIMENT = "sensitivity"
_AXIS, _MAIN = "specification", "main"
_BEST = points("best_test_score")
#: Data set to effect, in points.
Effects = Mapping[str, float]


def sensitivities(rows: Iterable[Row]) -> tuple[Sensitivity, ...]:
    """Return the sensitivity of the sign to specification, on real data; none before any run.

    The effect is the accuracy of students of a teacher with all non-target probabilities shuffled,
    minus that of students of the untouched one; the student without KD, which both share, cancels.
    The main specification is one of the experiment's, on the same data sets.
    """
    kd = [
        row
        for row in rows
        if (row["part_of"], row["source"], row["arm"]) == (EXPERIMENT, "real", "kd")
    ]
    groups = by_key(kd, lambda row: str(row["cell"].get(_AXIS)))
    found = {name: _effects(own, SCORE) for name, own in groups.items()}
    main = found.pop(_MAIN, {})
    if _MAIN in groups:
        found[f"{_MAIN}, best epoch on validation data"] = _effects(groups[_MAIN], _BEST)
    tried = tuple(_specification(name, of, main) for name, of in found.items() if of)
    if not tried:
        return ()
    effect = "Points by which shuffled non-target probabilities change the student's accuracy"
    return (Sensitivity(effect, fmean(main.values()) if main else None, tried),)


def _effects(rows: Sequence[Row], score: Measure) -> Effects:
    """Return the effect in each data set, over seeds that have both; the mean over protocols."""
    by_set: dict[str, list[float]] = {}
    for (dataset, _), own in by_key(rows, lambda row: (row["dataset"], row["protocol"])).items():
        found = block(own, lambda row: (row["intervention"],), [score])
        if {(None,), (SHUFFLE,)} <= found.runs.keys():
            shuffled, untouched = found.only([(SHUFFLE,), (None,)]).values(score)
            by_set.setdefault(dataset, []).append(float((shuffled - untouched).mean()))
    return {dataset: fmean(values) for dataset, values in by_set.items()}


def _specification(name: str, effects: Effects, main: Effects) -> Specification:
    """Return whether the mean effect has the sign of the main one on the same data sets."""
    shared = effects.keys() & main.keys()
    agrees = None
    if shared:
        own, primary = (fmean(of[dataset] for dataset in shared) for of in (effects, main))
        agrees = own * primary > 0
    return Specification(name, len(effects), fmean(effects.values()), agrees)
