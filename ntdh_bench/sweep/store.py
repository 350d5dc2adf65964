"""The folder a sweep works in: records, logs, locks and scratch folders, named by the run's hash.

A run is held by a lock while it is in flight, so that several sweeps can share one folder. The
operating system frees the locks of a killed sweep.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ntdh_bench.errors import UserError
from ntdh_bench.experiments import Experiment
from ntdh_bench.records.collecting import record_path
from ntdh_bench.records.columns import RecordError
from ntdh_bench.records.files import read_run
from ntdh_bench.records.rows import csv_path, read_rows
from ntdh_bench.sweep.estimate import Timing

_FOLDERS = ("records", "logs", "locks", "work")
_HASH = re.compile(r"\.?([0-9a-f]{16})\b")


class Store:
    """Paths and locks below one folder.

    Args:
        root: the folder; made by :meth:`prepare`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the folders, and remove what killed sweeps left in them.

        Raises:
            UserError: the folder cannot be written.
        """
        with self._writing():
            for name in _FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)
        half_written = (self.root / "records").glob(".*")
        for path in [*half_written, *(self.root / "work").iterdir()]:
            self._remove_leftover(path)

    def _remove_leftover(self, path: Path) -> None:
        name = _HASH.match(path.name)
        lock = self.claim(name[1]) if name else None
        if lock is None:  # not ours, or in use by another sweep
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        lock.release()

    def record(self, run: str) -> Path:
        """Return where the record of a run goes."""
        return record_path(self.root, run)

    def log(self, run: str) -> Path:
        """Return where the output of a run goes."""
        return self.root / "logs" / f"{run}.log"

    @property
    def workers_log(self) -> Path:
        """Where the output of worker processes goes while they have no run."""
        return self.root / "logs" / "workers.log"

    def scratch(self, run: str, process: int) -> Path:
        """Return the folder that a run may use in a worker process; it is removed afterwards."""
        return self.root / "work" / f"{run}-{process}"

    def claim(self, name: str) -> FileLock | None:
        """Return the lock of a run, now held by this process, or None if another one holds it."""
        lock = FileLock(self.root / "locks" / f"{name}.lock")
        with self._writing():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return None
        return lock

    def set_aside_damaged(self, run: str, keep: Sequence[str]) -> Path | None:
        """Rename the record of a run if it cannot be collected; returns its new path, else None.

        The caller holds the lock of the run.

        Raises:
            UserError: the folder cannot be written.
        """
        path = self.record(run)
        try:
            read_run(path, run, keep)
        except RecordError:
            if path.exists():
                with self._writing():
                    return path.rename(path.with_name(f"{path.name}.damaged"))
        return None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write to {self.root}: {error.strerror}; make room, or give --runs a "
                "folder that can be written"
            ) from None


def finished_runs(experiment: Experiment, store: Store, results: Path) -> dict[str, Timing]:
    """Return hash -> time of the runs that are complete: in the store, or in the CSV.

    A run whose record cannot be collected is not complete.

    Raises:
        UserError: the CSV is of another schema.
    """
    path = csv_path(results, experiment.name)
    rows = read_rows(path).rows if path.is_file() else []
    timings = {row["run"]: _timing(row) for row in rows}
    for run in experiment.runs:
        path = store.record(run.hash)
        try:
            timings[run.hash] = _timing(read_run(path, run.hash, experiment.keep))
        except RecordError:
            if path.exists():
                timings.pop(run.hash, None)
    return timings


def _timing(record: Mapping[str, Any]) -> Timing:
    return Timing(float(record.get("seconds") or 0), bool(record.get("stack")))
