"""Whether rows can test the hypothesis at all: what must be so before any gain is looked at.

The paper states it under two assumptions (Sec. III-A): teacher and student have the same capacity,
and the two modalities the same strength. A test of it must also have moved the divergence as
intended, must not have damaged the teacher by that, and needs students that are trained to the end.
Whatever these rest on was measured without KD.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ntdh_bench.records.columns import Row, by_key
from ntdh_bench.records.details import MAX_LATE_GAIN
from ntdh_bench.report.statistics import p_greater

CAPACITY = 0.05  # as a share of the smaller network
STRENGTH = 3.0  # points
TEACHER = 3.0  # points
MOVED = 0.005  # nats
LEVEL = 0.05

# Rows of one setting of data and teacher, seeds aside.
_SETTING = ("dataset", "source", "protocol", "pair_hash")
_CHANGE = ("mask_hash",)  # of a mask and of an intervention


class Gate(NamedTuple):
    """A condition of a test.

    Attributes:
        name: ``capacity``, ``strength``, ``manipulation``, ``teacher`` or ``converged``.
        passed: None where the rows do not tell.
        shown: the number it rests on, in words; empty where there is none.
    """

    name: str
    passed: bool | None
    shown: str = ""


def failed(gates: Iterable[Gate]) -> list[Gate]:
    """Return the gates that were not passed; what is unknown is none of them."""
    return [gate for gate in gates if gate.passed is False]


def weakest(gates: Iterable[Gate]) -> Gate:
    """Return the gate that decides of several of one name: a failed one, then an unknown one."""
    return min(gates, key=lambda gate: {False: 0, None: 1, True: 2}[gate.passed])


def untouched(row: Row) -> bool:
    """Return whether a row's teacher is as it was trained: no mask, no intervention."""
    return not row["mask"] and not row["intervention"]


def capacity(rows: Iterable[Row]) -> Gate:
    """Assumption 1: teacher and student differ by at most 5 % in their number of parameters."""
    pairs = {(row["teacher_parameters"], row["student_parameters"]) for row in rows}
    apart = [max(pair) / min(pair) - 1 for pair in pairs if None not in pair and min(pair) > 0]
    if not apart:
        return Gate("capacity", None)
    worst = round(max(apart), 9)
    return Gate("capacity", worst <= CAPACITY, f"{100 * worst:.1f} % apart")


def strength(rows: Iterable[Row]) -> Gate:
    """Assumption 2: teacher as it is, and student without KD, lie within 3 points on test data.

    Over seeds; of several settings of data and teacher, the one where they lie farthest apart.
    """
    alone = [row for row in rows if row["arm"] == "without_kd" and untouched(row)]
    leads = [
        [_difference(row, "last_test_teacher_score", row, "last_test_score") for row in own]
        for own in by_key(alone, lambda row: _values(row, _SETTING)).values()
    ]
    return _within("strength", _means(leads), STRENGTH)


def teacher(changed: Iterable[Row], rows: Iterable[Row]) -> Gate:
    """Check that masks and interventions leave the teacher within 3 points on test data.

    Over seeds; of several masks, the one that changes it most. What leaves the teacher as it is
    passes.

    Args:
        changed: rows whose teachers count.
        rows: those among which the same teachers, untouched, are looked up.
    """
    before = {
        (*_values(row, _SETTING), row["seed"]): row
        for row in rows
        if untouched(row) and row["last_test_teacher_score"] is not None
    }
    counted = list(changed)
    touched = [row for row in counted if not untouched(row)]
    if counted and not touched:
        return Gate("teacher", True, "untouched")
    column = "last_test_teacher_score"
    changes = [
        [
            _difference(row, column, before[key], column)
            for row in own
            if (key := (*_values(row, _SETTING), row["seed"])) in before
        ]
        for own in by_key(touched, lambda row: _values(row, _SETTING + _CHANGE)).values()
    ]
    return _within("teacher", _means(changes), TEACHER)


def converged(rows: Iterable[Row], arms: Sequence[str] = ("without_kd", "single")) -> Gate:
    """Check that what trains alone gains less than 0.5 points over the last fifth of its epochs.

    Over seeds; of several settings, the one that still gains most.

    Args:
        rows: among which they are looked up.
        arms: that train alone.
    """
    alone = [row for row in rows if row["arm"] in arms]
    gains = [
        [row["late_gain"] for row in own]
        for own in by_key(alone, lambda row: _values(row, _SETTING)).values()
    ]
    means = [100 * mean for mean in _means(gains)]
    if not means:
        return Gate("converged", None)
    return Gate("converged", max(means) < MAX_LATE_GAIN, f"{max(means):+.2f} points late")


def manipulation(changes: Sequence[float]) -> Gate:
    """Check that the divergence moved as intended: by 0.005 nats or more, and beyond chance.

    The latter by a one-sided t test over seeds, at 5 %.

    Args:
        changes: of a divergence before distillation in nats, one a seed, > 0 as intended; with
            fewer than two the gate is unknown.
    """
    if len(changes) < 2:
        return Gate("manipulation", None)
    mean = sum(changes) / len(changes)
    direction = "as intended" if mean > 0 else "against the intention"
    passed = mean >= MOVED and p_greater(changes) < LEVEL
    return Gate("manipulation", passed, f"{abs(mean):.3f} nats {direction}")


def _within(name: str, points: Sequence[float], margin: float) -> Gate:
    if not points:
        return Gate(name, None)
    largest = max(points, key=abs)
    worst = round(largest, 9)  # what lies on the margin is within it
    return Gate(name, abs(worst) <= margin, f"{worst:+.1f} points")


def _means(groups: Iterable[Sequence[float | None]]) -> list[float]:
    """Return the mean of each group that has numbers."""
    known = [[value for value in group if value is not None] for group in groups]
    return [sum(group) / len(group) for group in known if group]


def _difference(row: Row, column: str, other: Row, of: str) -> float | None:
    """Return the difference of two scores in points."""
    if row[column] is None or other[of] is None:
        return None
    return 100 * float(row[column] - other[of])


def _values(row: Row, columns: Iterable[str]) -> tuple[object, ...]:
    return tuple(row[name] for name in columns)
