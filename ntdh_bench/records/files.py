"""Records as JSON, one file a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ntdh_bench.cache import write_atomic
from ntdh_bench.errors import FileError
from ntdh_bench.files.reading import read_bytes
from ntdh_bench.files.text import read_json
from ntdh_bench.records.columns import CONTROLS, Item, RecordError, cut
from ntdh_bench.records.details import detail_rows
from ntdh_bench.records.identity import Place, baseline_hash, task_weight
from ntdh_bench.records.rows import to_row

SCHEMA = 4
_READABLE = (2, 3, SCHEMA)  # schema 2 had no mean IoU, 3 did not say what the data are judged by
MAX_BYTES = 1 << 26  # of a record with its maps


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record whole or not at all.

    Raises:
        RecordError: a number in it is not finite.
        UserError: the folder cannot be written.
    """
    try:
        text = json.dumps({"schema": SCHEMA, **record}, indent=2, allow_nan=False)
    except ValueError:
        where = next(_not_finite(record, ""))
        raise RecordError(
            f"{path} is not written: {where} is not a finite number; the input data, or the "
            "outputs of a network, overflow"
        ) from None
    with write_atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _not_finite(value: Any, where: str) -> Iterator[str]:
    """Yield the dotted keys of the numbers in plain values that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield where
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    for key, item in value.items() if isinstance(value, Mapping) else ():
        yield from _not_finite(item, f"{where}.{key}".lstrip("."))


def read_record(path: Path) -> dict[str, Any]:
    """Return the record in a JSON file.

    Raises:
        RecordError: it is damaged, or of another schema.
    """
    try:
        record = read_json(path, MAX_BYTES, "run it again")
    except FileError as error:
        raise RecordError(str(error)) from None
    return of_schema(record, str(path))


def of_schema(record: Any, name: str) -> dict[str, Any]:
    """Return a value from JSON if it is a record of a schema that this version reads.

    Raises:
        RecordError: it is none; ``name`` says whose it is.
    """
    found = record.get("schema") if isinstance(record, dict) else None
    if found not in _READABLE or type(found) is not int:
        readable = "this version reads " + ", ".join(map(str, _READABLE))
        raise RecordError(f"{name}: a record of schema {cut(found)}; {readable}")
    return dict(record)


def find_controls(
    root: Path, identity: dict[str, Any], pattern: str = "*/record.json"
) -> dict[float, dict[str, Any]]:
    """Return the latest of a run's controls among ``root/pattern``, by their task weight."""
    wanted = baseline_hash(identity)
    found = {}
    for path in sorted(root.glob(pattern)):
        with suppress(FileError):  # one that is not as it was written is none
            if wanted.encode() not in read_bytes(path, MAX_BYTES):
                continue  # a sweep has thousands
            record = read_record(path)
            if record.get("arm") in CONTROLS and record.get("baseline_hash") == wanted:
                check_record({"run": "of fit", **record}, ())
                found[task_weight(record["config"]["model"]["init_args"]) or 1.0] = record
    return found


def equal_task(controls: Mapping[float, Item], weight: float) -> Item | None:
    """Return that of :func:`find_controls` whose task weight is this one: 1 - 0.9 is not 0.1."""
    return next((found for own, found in controls.items() if math.isclose(own, weight)), None)


def gain(record: Mapping[str, Any], control: Mapping[str, Any], checkpoint: str = "last") -> float:
    """Return how much more a run scores on test data than its control, a share; of one seed.

    Args:
        record: of the run.
        control: of :func:`find_controls`.
        checkpoint: ``last`` or ``best``; of a control without the best one the last counts.
    """
    own = record["metrics"][checkpoint]["test"][record["measure"]]
    other = control["metrics"][checkpoint] or control["metrics"]["last"]
    return float(own - other["test"][record["measure"]])


def read_run(path: Path, run: str, keep: Iterable[str] = ()) -> dict[str, Any]:
    """Return the record of a run.

    Args:
        path: of the record.
        run: whose it should be.
        keep: the extras that its experiment collects.

    Raises:
        RecordError: as :func:`read_record`, it is another run's, or it cannot be collected.
    """
    record = read_record(path)
    if record.get("run") != run:
        raise RecordError(f"{path}: this is the record of run {cut(record.get('run'))}")
    try:
        check_record(record, keep)
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None
    return record


def check_record(record: Mapping[str, Any], keep: Iterable[str]) -> None:
    """Refuse a record that cannot be collected.

    Args:
        record: of a run.
        keep: the extras that its experiment collects.

    Raises:
        RecordError: something is missing, malformed, not finite or out of range.
    """
    to_row(record, Place("checked", "checked"))
    for kind in keep:
        detail_rows(record, kind)
