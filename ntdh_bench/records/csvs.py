"""CSV files of records: every line is checked, and one that cannot be used is named."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ntdh_bench.cache import write_atomic
from ntdh_bench.errors import FileError, one_line
from ntdh_bench.files.reading import checked_size
from ntdh_bench.records.columns import RecordError, Row, cut

_MAX_PROBLEMS = 20  # told of one file
_MAX_CSV = 1 << 30

Line: TypeAlias = Mapping[str, str]


class Collected(NamedTuple):
    """The rows of a file or an experiment, and what could not be used."""

    rows: list[Row]
    problems: list[str]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV whole or not at all; None becomes an empty cell, a float its shortest exact text.

    Raises:
        UserError: the folder cannot be written.
    """
    with write_atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(
    path: Path, reader_of: Callable[[Sequence[str]], Callable[[Line], Row] | None]
) -> Collected:
    """Read a CSV; lines that cannot be used are named in ``problems`` and left out.

    Args:
        path: of the file.
        reader_of: returns, for the columns of the file, what makes a row of a line, raising
            ValueError for one that it cannot use; or None if those are no columns that it knows.

    Raises:
        RecordError: the file cannot be read, or has other columns.
    """
    rows, problems = [], []
    try:
        checked_size(path, _MAX_CSV, "collect it again with `ntdh-bench sweep`")
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(_whole_lines(file))
            row = reader_of(tuple(reader.fieldnames or ()))
            if row is None:
                raise RecordError(
                    f"{path}: its columns are not those of a schema that this version reads; "
                    "collect it again with `ntdh-bench sweep`, or read it with the version that "
                    "wrote it"
                )
            for line in reader:
                try:
                    if None in line or None in line.values():
                        raise ValueError("not as many cells as there are columns")
                    rows.append(row(line))
                except ValueError as error:
                    problems.append(one_line(f"{path}, line {reader.line_num}: {error}"))
    except RecordError:
        raise
    except FileError as error:
        raise RecordError(str(error)) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"{path}: cannot be read ({cut(error)})") from None
    if (left := len(problems) - _MAX_PROBLEMS) > 0:
        problems[_MAX_PROBLEMS:] = [f"{path}: and {left} more lines like these"]
    return Collected(rows, problems)


def _whole_lines(file: Iterable[str]) -> Iterator[str]:
    """Yield the lines; one that was cut short at the end of the file is left without its cells."""
    for line in file:
        yield line if line.endswith("\n") else "cut short\n"
