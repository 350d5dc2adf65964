"""The rows of an experiment, gathered from the records of its runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ntdh_bench.cache import default_cache_dir, digest, file_digest, locked, write_atomic
from ntdh_bench.experiments import Experiment
from ntdh_bench.files.schema import mismatch
from ntdh_bench.files.text import read_json
from ntdh_bench.records.columns import RecordError, Row, by_key
from ntdh_bench.records.csvs import Collected, write_csv
from ntdh_bench.records.details import COLUMNS, detail_rows, details_path, read_details
from ntdh_bench.records.files import read_run
from ntdh_bench.records.identity import Place, place, place_of
from ntdh_bench.records.rows import conflicts, csv_path, read_rows, to_row, write_rows

OUTDATED = ".outdated.json"


def record_path(store: Path, run: str) -> Path:
    """Return where a sweep keeps a run's record."""
    return store / "records" / f"{run}.json"


def orphans(experiment: Experiment, rows: Iterable[Row]) -> list[Row]:
    """Return the rows of runs that the experiment does not have; none if its data are missing."""
    runs = {(run.hash, run.protocol) for run in experiment.runs}
    return [r for r in rows if not experiment.missing and (r["run"], r["protocol"]) not in runs]


def collect(experiment: Experiment, store: Path, results: Path) -> Collected:
    """Gather an experiment's records into its CSV and return the rows of its runs.

    Rows already there whose record is not in ``store`` stay, and so do, at the end and named in
    ``problems``, those of runs that are no longer part of the experiment. Damaged records are
    named and left out. Rows that no axis tells apart are named, too. Without the experiment's data
    set nothing is changed.

    Args:
        experiment: names the runs that belong to it.
        store: folder of the sweep's records.
        results: the results folder.

    Raises:
        UserError: a folder cannot be written, or the CSV there is not one of this schema.
    """
    path = csv_path(results, experiment.name)
    with exclusively(path):
        kept = read_rows(path) if path.is_file() else Collected([], [])
        if experiment.missing:
            return kept
        found = _update(experiment, store, path, kept)
        left = orphans(experiment, found.rows)
        _note_outdated(path, left)
    if left:
        found.problems.append(
            f"{path}: {len(left)} rows of runs that {experiment.path} no longer has are kept, and "
            "left out of tables; delete them if they are not needed"
        )
    own = found.rows[: len(found.rows) - len(left)]
    return Collected(own, found.problems + conflicts(own).problems)


@contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Hold the lock of a CSV; it lies in the cache, as results are under version control."""
    with locked(default_cache_dir() / "locks" / digest(str(path.resolve()))):
        yield


def outdated_path(path: Path) -> Path:
    """Return the file that says which rows of a CSV of records are no longer the experiment's."""
    return path.with_suffix(OUTDATED)


def outdated_runs(path: Path) -> set[tuple[str, str]]:
    """Return run and protocol of the rows that an experiment no longer had when last collected.

    They are those of an earlier state of its configs, of third-party code, or of a given teacher.

    Raises:
        RecordError: the file that lists them is damaged.
    """
    file = outdated_path(path)
    if not file.is_file():
        return set()
    found = read_json(file, remedy="run the sweep again")
    if mismatch(found, [(str, str)]) is not None:
        raise RecordError(f"{file}: no list of runs and protocols; run the sweep again")
    return {(run, protocol) for run, protocol in found}


def _note_outdated(path: Path, rows: Sequence[Row]) -> None:
    pairs = sorted([row["run"], row["protocol"]] for row in rows)
    if not pairs:
        outdated_path(path).unlink(missing_ok=True)
        return
    with write_atomic(outdated_path(path)) as temporary:
        temporary.write_text(json.dumps(pairs) + "\n")


def _update(experiment: Experiment, store: Path, path: Path, kept: Collected) -> Collected:
    """Write the rows, and the details, that the store has news of."""
    places = {(run.hash, run.protocol): place(experiment.name, run) for run in experiment.runs}
    rows: dict[tuple[str, str], Row | None] = dict.fromkeys(places)
    for row in kept.rows:
        key = row["run"], row["protocol"]
        rows[key] = _placed(row, places[key]) if key in places else row
        places.setdefault(key, place_of(row))
    problems: list[str] = []
    details: dict[str, dict[str, list[Row]]] = {kind: {} for kind in experiment.keep}
    for (run, protocol), where in places.items():
        file = record_path(store, run)
        if not file.is_file():
            continue
        try:
            record = read_run(file, run, details)
            row = to_row(record, where)
            new = {kind: detail_rows(record, kind) for kind in details}
        except RecordError as error:
            problems.append(str(error))
            continue
        rows[run, protocol] = row
        for kind, lines in new.items():
            details[kind][run] = lines
    found = [row for row in rows.values() if row is not None]
    if found != kept.rows:
        problems += set_aside(path, kept.problems)
        write_rows(path, found)
    else:
        problems += kept.problems
    for kind, by_run in details.items():
        problems += _write_details(path, kind, dict.fromkeys(row["run"] for row in found), by_run)
    return Collected(found, problems)


def _placed(row: Row, where: Place) -> Row:
    return {**row, **where._asdict(), "cell": dict(where.cell)}


def set_aside(path: Path, problems: Sequence[str]) -> list[str]:
    """Copy a file, before it is written anew, if lines of it cannot be used: they would be lost.

    Returns the problems, and where the copy is.
    """
    if not problems:
        return []
    copy = path.with_name(f"{path.name}.{file_digest(path)[:8]}.damaged")
    with write_atomic(copy) as temporary:
        shutil.copyfile(path, temporary)
    return [*problems, f"{path}: written without these lines; as it was, it is kept as {copy}"]


def _write_details(
    path: Path, kind: str, runs: Iterable[str], new: Mapping[str, list[Row]]
) -> list[str]:
    """Write the details of ``runs``, those in ``new`` instead of those already there."""
    before = read_details(path, kind)
    by_run = by_key(before.rows, lambda row: str(row["run"])) | dict(new)
    rows = [row for run in runs for row in by_run.get(run, [])]
    if rows == before.rows:
        return before.problems
    file = details_path(path, kind)
    problems = set_aside(file, before.problems)
    write_csv(file, tuple(COLUMNS[kind]), rows)
    return problems
