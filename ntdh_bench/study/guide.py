"""What a practitioner should do with it: which method, on which data, over which control."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.records.columns import Row, by_key
from ntdh_bench.report.contrasts import Measure, points
from ntdh_bench.report.effects import MIN_SETS
from ntdh_bench.report.gates import untouched
from ntdh_bench.report.statistics import Array, Estimate, holm, mean_ci
from ntdh_bench.study.results import Guide, GuideLine, GuideMethod, GuideRule

#: Experiments of methods whose cross entropy weighs 1, unless a method has it otherwise (SimKD);
#: and those, with what is part of their exhibits, whose main protocols alone count.
METHODS, TABLES = ("methods", "directions"), ("table2", "table3", "table_pairs")
_EXPERIMENTS = (*METHODS, *TABLES)
# What tells lines of one method apart: how students are trained, and by which teacher.
_HASHES = ("objective_hash", "pair_hash")
LEVEL = 0.05
_GAIN, _GAIN_EQUAL = points("gain"), points("gain_over_equal_task")
_TEACHER, _STUDENT = points("last_test_teacher_score"), points("last_test_score")


def make_guide(rows: Iterable[Row]) -> Guide:
    """Return the guide of the runs on real data."""
    kd = [row for row in rows if row["source"] == "real" and row["arm"] == "kd"]
    main = [row for row in kd if untouched(row) and _is_main(row)]
    main.sort(key=lambda row: _EXPERIMENTS.index(row["part_of"]))
    # Experiments share runs: the first that has one counts it.
    unique = {(row["run"], row["protocol"]): row for row in reversed(main)}
    groups = by_key(reversed(unique.values()), lambda row: (*_names(row), *map(row.get, _HASHES)))
    lines = [_line(groups[key]) for key in sorted(groups, key=repr)]
    known = tuple(line for line in lines if line)
    by_method = by_key(known, lambda line: line.method)
    methods = sorted(map(_method, by_method.values()), key=lambda of: -of.gain.mean)
    return Guide(known, tuple(methods), _rules(by_method))


def _is_main(row: Row) -> bool:
    of_table = row["part_of"] in TABLES and row["task_weight"] == 1
    return row["part_of"] in METHODS or of_table


def _names(row: Row) -> tuple[str, str, str]:
    method = row["cell"].get("method") or row["method"]
    return str(row["dataset"]), str(row["protocol"]), str(method)


# -- lines ---------------------------------------------------------------------------------------


def _line(rows: Sequence[Row]) -> GuideLine | None:
    gain, equal = _mean(rows, _GAIN), _mean(rows, _GAIN_EQUAL)
    if gain is None:
        return None
    dataset, protocol, method = _names(rows[0])
    source, experiment = str(rows[0]["source"]), str(rows[0]["experiment"])
    teacher = "both" if rows[0]["teacher_inputs"] == "both" else "one modality"
    known = [estimate for estimate in (gain, equal) if estimate]
    return GuideLine(
        dataset, source, experiment, protocol, teacher, method, gain, equal, _mean(rows, _lead),
        _helped(known),
    )  # fmt: skip


def _lead(row: Row) -> float | None:
    """Return how far the teacher lies above the student without KD, in points."""
    teacher, student, gain = _TEACHER(row), _STUDENT(row), _GAIN(row)
    if teacher is None or student is None or gain is None:
        return None
    return teacher - (student - gain)


def _mean(rows: Iterable[Row], measure: Measure) -> Estimate | None:
    return mean_ci(value for row in rows if (value := measure(row)) is not None)


def _helped(gains: Sequence[Estimate]) -> bool | None:
    if any(gain.high is not None and gain.high < 0 for gain in gains):
        return False
    return True if all(gain.low is not None and gain.low > 0 for gain in gains) else None


# -- methods -------------------------------------------------------------------------------------


def _method(lines: Sequence[GuideLine]) -> GuideMethod:
    gain = _over_sets([(line.dataset, line.gain.mean) for line in lines])
    equal = _over_sets([(x.dataset, x.gain_equal.mean) for x in lines if x.gain_equal])
    assert gain is not None  # there are lines
    helped = [line.helped for line in lines]
    return GuideMethod(
        lines[0].method, gain, equal, helped.count(True), helped.count(False), len(lines)
    )


def _over_sets(values: Iterable[tuple[str, float]]) -> Estimate | None:
    """Return the mean over data sets, each the mean over its values."""
    by_set = by_key(values, lambda pair: pair[0])
    return mean_ci(float(np.mean([value for _, value in of])) for of in by_set.values())


# -- the rule ------------------------------------------------------------------------------------


def _rules(by_method: Mapping[str, Sequence[GuideLine]]) -> tuple[GuideRule, ...]:
    """Return a rule for every method whose leads and gains vary over enough data sets."""
    from scipy.stats import spearmanr

    tried = {name: _Points.of(lines) for name, lines in by_method.items()}
    tried = {name: points for name, points in tried.items() if points.tell()}
    found = {name: spearmanr(points.lead, points.gain) for name, points in tried.items()}
    ps = dict(zip(found, holm([float(of.pvalue) for of in found.values()]), strict=True))
    rhos = {name: float(of.statistic) for name, of in found.items()}
    return tuple(_rule(name, of, rhos[name], ps[name]) for name, of in tried.items())


class _Points(NamedTuple):
    """Settings of a method: data set, lead and gain over the primary control, in points."""

    sets: NDArray[np.str_]
    lead: Array
    gain: Array

    @classmethod
    def of(cls, lines: Sequence[GuideLine]) -> _Points:
        known = [line for line in lines if line.lead]
        return cls(
            np.array([line.dataset for line in known], dtype=str),
            np.array([line.lead.mean for line in known if line.lead]),
            np.array([(line.gain_equal or line.gain).mean for line in known]),
        )

    def tell(self) -> bool:
        """Return whether there are enough of them, which differ."""
        varied = len(set(self.lead)) > 1 and len(set(self.gain)) > 1
        return len(set(self.sets)) >= MIN_SETS and varied


def _rule(method: str, of: _Points, rho: float, p: float) -> GuideRule:
    right = np.zeros(len(of.lead))
    for name in set(of.sets):
        out = of.sets == name
        told = of.lead[out] > threshold(of.lead[~out], of.gain[~out])
        right[out] = told == (of.gain[out] > 0)
    gains = float((of.gain > 0).mean())
    supported = threshold(of.lead, of.gain) if p < LEVEL and rho > 0 else None
    return GuideRule(
        method, rho, p, supported, float(right.mean()), max(gains, 1 - gains), len(of.lead),
        len(set(of.sets)),
    )  # fmt: skip


def threshold(lead: Array, gain: Array) -> float:
    """Return the threshold of the lead above which gains are positive, with fewest errors.

    It lies midway between two leads, or beyond all; of several, the lowest.
    """
    ordered = sorted(set(lead.tolist()))
    between = [(low + high) / 2 for low, high in pairwise(ordered)]
    candidates = [ordered[0] - 1.0, *between, ordered[-1] + 1.0]
    errors = [int(((lead > limit) != (gain > 0)).sum()) for limit in candidates]
    return float(candidates[int(np.argmin(errors))])
