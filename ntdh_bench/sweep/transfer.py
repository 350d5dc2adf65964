"""Records in one file, from the store of one machine to that of another without a common disk.

The file is a zip with a record as JSON for every run: the same bytes for the same records. It is
not trusted. Sizes are checked before anything is unpacked, a record at a time; names in it mean
nothing; a record is taken if its run is one of the experiment's here.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntdh_bench.cache import write_atomic
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.experiments import MAX_RUNS, Experiment
from ntdh_bench.files.archives import open_zip, read_member
from ntdh_bench.files.reading import reading
from ntdh_bench.files.text import parse_json
from ntdh_bench.records.columns import RecordError, Row, by_key, cut
from ntdh_bench.records.files import MAX_BYTES, check_record, of_schema, read_run, write_record
from ntdh_bench.records.identity import place_of
from ntdh_bench.records.rows import csv_path, read_rows, to_row
from ntdh_bench.sweep.store import Store

_WHAT = "a file that sweep --export wrote"
_REMEDY = "export it again"
_MAX_TOTAL = 1 << 34  # bytes of all records, unpacked: a table has a few hundred MB
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # a zip needs a date


@dataclass
class Imported:
    """What came of a file of records.

    Attributes:
        taken: records that are in the store now and were not.
        known: records that were there, the same.
        kept: runs whose record here is another, and was kept.
        problems: records that were left out, a line each.
        damaged: records of the store that could not be read, under their new names.
    """

    taken: int = 0
    known: int = 0
    kept: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)


def check_target(path: Path) -> None:
    """Refuse to write an export in place of something else.

    Raises:
        UserError: there is something else.
    """
    if path.exists() and not zipfile.is_zipfile(path):
        raise UserError(f"--export {path}: there is something else; give the name of a new file")


def export_records(runs: Iterable[str], store: Store, keep: Sequence[str], path: Path) -> int:
    """Write the records of runs that are complete in a store; returns how many.

    Without one there is no file.

    Args:
        runs: hashes.
        store: has the records.
        keep: the extras that the experiment collects.
        path: of the file.

    Raises:
        UserError: it cannot be written.
    """
    there = sorted(run for run in set(runs) if store.record(run).exists())
    if not there:
        return 0
    count = 0
    with (
        write_atomic(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
    ):
        for run in there:
            try:
                record = read_run(store.record(run), run, keep)
            except RecordError:
                continue  # not complete: the sweep says so
            member = zipfile.ZipInfo(f"{run}.json", _LONG_AGO)
            member.compress_type, member.create_system = zipfile.ZIP_DEFLATED, 3
            archive.writestr(member, json.dumps(record, separators=(",", ":")))
            count += 1
    return count


def import_records(
    path: Path, experiment: Experiment, store: Store, results: Path, replace: bool = False
) -> Imported:
    """Put the records of an experiment that a file holds into a store.

    A run that has another record here, or another row in the CSV, keeps it.

    Args:
        path: of the file.
        experiment: whose runs are taken.
        store: prepared.
        results: the results folder.
        replace: whether to take the file's record where there is another one.

    Raises:
        UserError: the file is damaged, and then nothing of it was taken; or the store cannot be
            written.
    """
    _check_whole(path)
    csv = csv_path(results, experiment.name)
    rows = by_key(read_rows(csv).rows if csv.is_file() else [], lambda row: str(row["run"]))
    runs = {run.hash for run in experiment.runs}
    into = _Import(store, experiment.keep, rows, replace)
    for record in _records(path):
        try:
            into.take(record, _checked(record, runs, experiment))
        except RecordError as error:
            into.found.problems.append(f"{path}: {error}")
    return into.found


@dataclass
class _Import:
    store: Store
    keep: Sequence[str]
    rows: Mapping[str, Sequence[Row]]
    replace: bool
    found: Imported = field(default_factory=Imported)

    def take(self, record: dict[str, Any], run: str) -> None:
        """Put a record into the store, unless there is one.

        Raises:
            RecordError: another sweep is doing the run.
        """
        lock = self.store.claim(run)
        if lock is None:
            raise RecordError(f"run {run} is left out: a sweep here is doing it")
        try:
            self._take(record, run)
        finally:
            lock.release()

    def _take(self, record: dict[str, Any], run: str) -> None:
        damaged = self.store.set_aside_damaged(run, self.keep)
        if damaged is not None:
            self.found.damaged.append(damaged)
        path = self.store.record(run)
        known = read_run(path, run, self.keep) if path.exists() else None
        if known == record:
            self.found.known += 1
        elif not self.replace and (known or self._is_another(record, run)):
            self.found.kept.append(run)
        else:
            write_record(path, record)
            self.found.taken += 1

    def _is_another(self, record: Mapping[str, Any], run: str) -> bool:
        """Return whether the CSV has a row of the run that does not come of this record."""
        return any(to_row(record, place_of(row)) != row for row in self.rows.get(run, ()))


def _checked(record: Any, runs: set[str], experiment: Experiment) -> str:
    """Return the run of a record that may be taken.

    Raises:
        RecordError: it is another experiment's, or cannot be collected.
    """
    given = record.get("run") if isinstance(record, dict) else None
    name = f"run {cut(given, 20)} is left out"
    run = of_schema(record, name).get("run")
    if not isinstance(run, str) or run not in runs:
        raise RecordError(
            f"{name}: {experiment.name} has no such run here; its config, or code that it names, "
            "may be another"
        )
    try:
        check_record(record, experiment.keep)
    except RecordError as error:
        raise RecordError(f"{name}: {error}") from None
    return run


def _check_whole(path: Path) -> None:
    """Read a file once, so that nothing is taken from one that is damaged further on.

    Raises:
        FileError: it is damaged, or has a run twice.
    """
    seen: set[str] = set()
    for record in _records(path):
        run = str(record.get("run")) if isinstance(record, dict) else ""
        if run in seen:
            raise FileError(f"{path}: a run is there twice; {_REMEDY}")
        seen.add(run)


def _records(path: Path) -> Iterator[Any]:
    """Yield what the members of a file hold."""
    with open_zip(path, MAX_RUNS, _WHAT, _REMEDY) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > _MAX_TOTAL:
            raise FileError(
                f"{path}: {total} bytes of records, expected at most {_MAX_TOTAL}; {_REMEDY}"
            )
        for number, member in enumerate(members, start=1):
            with reading(path, _WHAT, _REMEDY):
                text = read_member(archive, member, MAX_BYTES).decode()
            yield parse_json(text, f"{path}, record {number}", _REMEDY)
