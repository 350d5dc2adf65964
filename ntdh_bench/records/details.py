"""What a record holds beside its metrics: values per epoch and heat maps, each in a CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ntdh_bench.records.columns import (
    MALFORMED,
    RecordError,
    Row,
    check_number,
    checked,
    cut,
    parsed,
    told,
)
from ntdh_bench.records.csvs import Collected, Line, read_csv

#: Points that a score may gain over the last fifth of the epochs, if training is at its end.
MAX_LATE_GAIN = 0.5
_WINDOW = 0.1  # of the epochs
COLUMNS: dict[str, dict[str, type]] = {
    "curves": {"run": str, "epoch": int, "metric": str, "value": float},
    "maps": {"run": str, "removes": str, "y": int, "x": int, "value": float},
}


def details_path(path: Path, kind: str) -> Path:
    """Return the file of the ``curves`` or ``maps`` that go with a CSV of records."""
    return path.with_name(f"{path.stem}_{kind}.csv")


def read_details(path: Path, kind: str) -> Collected:
    """Return the rows of the ``curves`` or ``maps`` that go with a CSV of records.

    Rows that cannot be used are named in ``problems`` and left out.

    Raises:
        RecordError: the file is none of that kind.
    """
    file, columns = details_path(path, kind), COLUMNS[kind]

    def row(line: Line) -> Row:
        return _detail({n: parsed(n, line[n], of) for n, of in columns.items()}, kind)

    if not file.is_file():
        return Collected([], [])
    return read_csv(file, lambda found: row if found == tuple(columns) else None)


def _detail(row: Row, kind: str) -> Row:
    """Return a row of curves or maps.

    Raises:
        ValueError: a value is missing, of another type, not finite or out of range.
    """
    found = {name: checked(name, row[name], of) for name, of in COLUMNS[kind].items()}
    if kind == "curves":
        check_number(found["metric"], found["value"], found["metric"])
    return found


def detail_rows(record: Mapping[str, Any], kind: str) -> list[Row]:
    """Return the rows of a record's curves or maps.

    Raises:
        RecordError: it has none, or they are not numbers.
    """
    rows_of = {"curves": _curve_rows, "maps": _map_rows}[kind]
    try:
        rows = ({"run": record["run"], **row} for row in rows_of(record[kind]))
        return [_detail(row, kind) for row in rows]
    except MALFORMED as error:
        raise RecordError(
            f"the {kind} of run {cut(record.get('run'))} are not as they were written: "
            f"{told(error)}"
        ) from None


def late_gain(curve: Sequence[float]) -> float | None:
    """Return what a score gains over the last fifth of the epochs, as it is measured.

    The mean over the last epochs minus that over those before the last fifth: a tenth of the epochs
    each, but at least two, as one epoch's score is noise of the size that is looked for, and never
    epochs of both parts. None with fewer than five epochs, of which a fifth is less than one.

    Args:
        curve: the score after every epoch.
    """
    late = len(curve) // 5
    if late == 0:
        return None
    width = min(max(2, round(_WINDOW * len(curve))), late)
    return fmean(curve[-width:]) - fmean(curve[-late - width : -late])


def _curve_rows(curves: Mapping[str, Any]) -> Iterator[Row]:
    for metric, values in curves.items():
        for epoch, value in enumerate(values):
            yield {"epoch": epoch, "metric": metric, "value": value}


def _map_rows(maps: Mapping[str, Any]) -> Iterator[Row]:
    for removes, rows in maps.items():
        for y, row in enumerate(rows):
            for x, value in enumerate(row):
                yield {"removes": removes, "y": y, "x": x, "value": value}
