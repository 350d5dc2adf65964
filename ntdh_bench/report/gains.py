"""Gains over each control: which of them rows have, and what must be said beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ntdh_bench.records.columns import Row
from ntdh_bench.report.gates import converged
from ntdh_bench.report.pairing import control_weight

#: The columns of gains: over which control, and what that is called.
GAINS = {
    "gain": ("without_kd", "w/o KD"),
    "gain_over_equal_task": ("equal_task", "equal task"),
    "gain_over_matched": ("matched", "matched"),
}


def shown_gains(rows: Sequence[Row]) -> dict[str, str]:
    """Return the columns of gains that a table of rows shows, and their names.

    Controls that are one run for all rows share a column, whose name says so. That of equal task is
    there even if this control was not run.
    """
    paired = _paired(rows)
    shown: dict[str, list[str]] = {}
    for column, (control, name) in GAINS.items():
        lacking = control == "equal_task" and any(map(lacks_equal_task, paired))
        if not lacking and all(row.get(column) is None for row in rows):
            continue
        twin = next((other for other in shown if paired and _is_one(control, other, paired)), None)
        shown.setdefault(twin or column, []).append(name)
    return {column: f"gain over {' = '.join(names)}" for column, names in shown.items()}


def lacks_equal_task(row: Row) -> bool:
    """Return whether a KD run has a control, but not the one that was to have its task weight."""
    return bool(_paired([row])) and row["gain_over_equal_task"] is None and _weight(row) > 0


def remarks(rows: Sequence[Row]) -> str:
    """Return what a reader of gains must know: controls that lack, or are not converged."""
    paired = _paired(rows)
    return " ".join([*_lacking(paired), *_impossible(paired), *_unconverged(rows)])


def _paired(rows: Iterable[Row]) -> list[Row]:
    """Return the KD runs that have a control."""
    return [row for row in rows if row["arm"] == "kd" and row.get("gain") is not None]


def _weight(row: Row) -> float:
    return control_weight(row, "equal_task")


def _is_one(control: str, column: str, paired: Iterable[Row]) -> bool:
    """Return whether a control is that of a column, for all KD runs that can have both."""
    pair = control, GAINS[column][0]
    able = [row for row in paired if "equal_task" not in pair or _weight(row) > 0]
    return all(len({control_weight(row, name) for name in pair}) == 1 for row in able)


def _lacking(paired: Iterable[Row]) -> list[str]:
    weights = sorted({_weight(row) for row in paired if lacks_equal_task(row)})
    if not weights:
        return []
    return [
        f"Equal task was not run for the task weight {_listed(weights)}: part of the gain over w/o "
        "KD may come from that weight, not from the teacher."
    ]


def _impossible(paired: Iterable[Row]) -> list[str]:
    methods = sorted({str(row["method"]) for row in paired if _weight(row) == 0})
    if not methods:
        return []
    return [
        f"{_listed(methods)}: the cross entropy weighs 0, and no student is trained by that alone; "
        "the gain is over w/o KD."
    ]


def _unconverged(rows: Sequence[Row]) -> list[str]:
    gates = {name: converged(rows, (control,)) for control, name in GAINS.values()}
    late = [f"{name} ({gate.shown})" for name, gate in gates.items() if gate.passed is False]
    return [f"Not converged: {_listed(late)}."] if late else []


def _listed(values: Iterable[object]) -> str:
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
