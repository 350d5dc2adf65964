"""Conversion of the CSVs of a results folder to the schema of this version."""

from __future__ import annotations

import csv
from pathlib import Path

from ntdh_bench.records import older
from ntdh_bench.records.collecting import exclusively, set_aside
from ntdh_bench.records.columns import RecordError
from ntdh_bench.records.files import SCHEMA
from ntdh_bench.records.rows import experiment_csvs, read_rows, write_rows


def upgrade(results: Path) -> list[str]:
    """Write the CSVs of records that are of an older schema in this one's; returns what was done.

    Each is written whole or not at all. Lines that cannot be used are kept beside it, as when a
    sweep collects, and every number that was measured stays as it is.

    Raises:
        UserError: a file cannot be read or written; those before it are converted.
    """
    return [line for path in experiment_csvs(results) for line in _upgrade(path)]


def _upgrade(path: Path) -> list[str]:
    with exclusively(path):
        schema = _schema(path)
        if schema is None:
            return []
        found = read_rows(path)
        problems = set_aside(path, found.problems)
        write_rows(path, found.rows)
    unknown = sum(not older.in_experiment(path.stem, row) for row in found.rows)
    note = f"; the cells of {unknown} are the settings that vary in the file" if unknown else ""
    told = f"{path}: schema {schema} to {SCHEMA}, {len(found.rows)} rows{note}"
    return [told, *problems]


def _schema(path: Path) -> int | None:
    """Return the older schema of a CSV, None if it is of this one."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return older.schema_of(next(csv.reader(file), ()))
    except (OSError, UnicodeDecodeError, csv.Error):
        read_rows(path)  # says what is wrong
        raise RecordError(f"{path}: cannot be read; collect it again with a sweep") from None
